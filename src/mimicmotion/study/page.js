"use strict";
(async () => {
  const $ = (id) => document.getElementById(id);
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let rater = ""; // signed id of the rater
  const study = await ask("GET", "about").catch(() => null);
  if (!study) return problem("The study cannot be reached. Please try again later.");
  document.title = study.title;
  for (const heading of document.querySelectorAll(".title")) heading.textContent = study.title;

  // ---- storage that survives a reload: the rater, and votes that are not sent yet --------------------------------
  const memory = new Map(); // if the browser has no storage (private windows)
  const storage = {
    get(name) {
      try { return localStorage.getItem(`${study.study}/${name}`); } catch { return memory.get(name) ?? null; }
    },
    set(name, value) {
      try { localStorage.setItem(`${study.study}/${name}`, value); } catch { memory.set(name, value); }
    },
  };
  let unsent = [];
  const save = () => storage.set(`unsent/${rater}`, JSON.stringify(unsent));

  async function ask(method, path, body) {
    const headers = rater ? { Authorization: `Bearer ${rater}` } : {};
    const reply = await fetch(`/study/${path}`, { method, headers, body });
    const data = await reply.json();
    if (!reply.ok) throw Object.assign(new Error(data.error?.got), { status: reply.status, fix: data.error?.fix });
    return data;
  }

  // ---- videos ---------------------------------------------------------------------------------------------------
  const elements = new Map(); // id -> <video>, of this pair and the next two
  function element(id) {
    if (!elements.has(id)) {
      const video = document.createElement("video");
      video.muted = true; video.defaultMuted = true; video.playsInline = true; video.preload = "auto";
      video.disableRemotePlayback = true; video.disablePictureInPicture = true;
      video.src = `/study/videos/${clips[id].file}`;
      elements.set(id, video);
    }
    return elements.get(id);
  }
  const idsOf = (trial) => [trial.left, trial.right, trial.driving].filter(Boolean);
  function preload(from) {
    const wanted = new Set(trials.slice(from, from + 3).flatMap(idsOf));
    for (const [id, video] of elements) {
      if (wanted.has(id)) continue;
      video.pause(); video.removeAttribute("src"); video.load(); video.remove(); // frees the memory
      elements.delete(id);
    }
    wanted.forEach(element);
  }

  const TICK = 0.1;
  let trials = [];
  let clips = {};
  let answered = new Set();
  const key = (trial, question) => [trial.pair, trial.repeat, question].join("/");
  let cursor = 0;
  let shown = null; // the current pair
  let paused = calm;

  function restart() {
    for (const video of shown.videos) { video.playbackRate = 1; video.currentTime = 0; }
    play();
  }
  function play() {
    if (!shown || paused || document.hidden) return;
    for (const video of shown.videos) if (!atEnd(video)) video.play().catch(refused);
  }
  // in power-saving mode, phones do not allow autoplay; then the button says Play
  function refused(error) { if (error.name === "NotAllowedError") setPaused(true); }
  const atEnd = (video) => video.ended || (video.duration > 0 && video.currentTime >= video.duration - 0.001);
  // The longest video leads. The others follow it; shorter ones wait on their last frame.
  function follow() {
    if (!shown?.ready || paused) return;
    shown.played += TICK;
    if (shown.played >= study.min_seconds) enable(true); // counts only the time for which the videos played
    if (shown.videos.every(atEnd)) return restart();
    for (const video of shown.videos) {
      if (video === shown.lead || video.seeking || shown.lead.seeking) continue;
      const want = Math.min(shown.lead.currentTime, video.duration);
      const late = want - video.currentTime;
      if (Math.abs(late) > 0.3) {
        video.playbackRate = 1;
        video.currentTime = want;
        if (!atEnd(video)) video.play().catch(() => {});
      } else if (!atEnd(video)) {
        video.playbackRate = Math.abs(late) < 0.02 ? 1 : 1 + Math.max(-0.1, Math.min(0.1, late));
      }
    }
  }
  setInterval(follow, TICK * 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) shown?.videos.forEach((v) => v.pause()); else play();
  });

  function labelled(child, label) {
    child.setAttribute(child.tagName === "IMG" ? "alt" : "aria-label", label);
    return child;
  }
  function showGiven(trial) {
    const given = $("given");
    given.replaceChildren();
    if (trial.reference) {
      const picture = new Image();
      picture.src = `/study/videos/${trial.reference}`;
      addGiven(given, labelled(picture, "Reference picture"), "the person");
    }
    if (trial.driving) addGiven(given, labelled(element(trial.driving), "Driving video"), "the movement");
    given.hidden = !given.children.length;
    $("stage").classList.toggle("with-given", !given.hidden);
  }
  function addGiven(given, child, caption) {
    const box = document.createElement("div");
    box.className = "frame";
    box.append(child);
    const text = document.createElement("figcaption");
    text.textContent = caption;
    given.append(box, text);
  }

  function heading() {
    const { trial, question } = shown;
    const practice = trials.filter((t) => t.practice).length;
    const at = trial.practice ? `Practice ${cursor + 1} / ${practice}` : `${cursor + 1 - practice} / ${trials.length - practice}`;
    const asked = study.questions.length > 1 ? `, question ${question + 1} / ${study.questions.length}` : "";
    $("heading").textContent = study.questions[question];
    $("place").textContent = at + asked;
    $("progress").max = trials.length * study.questions.length;
    $("progress").value = answered.size;
    $("status").textContent = `Pair ${at}${asked}`;
  }
  function show(index, question = 0) {
    cursor = index;
    const trial = trials[index];
    shown?.videos.forEach((v) => v.pause());
    preload(index);
    const videos = idsOf(trial).map(element);
    const lead = videos[idsOf(trial).map((id) => clips[id].seconds).reduce((best, s, i, all) => (s > all[best] ? i : best), 0)];
    shown = { trial, question, videos, lead, ready: false, since: 0, played: 0 };
    $("a").replaceChildren(labelled(element(trial.left), "Video A"));
    $("b").replaceChildren(labelled(element(trial.right), "Video B"));
    const clip = clips[trial.left];
    $("stage").classList.toggle("wide", clip.width > clip.height * 1.1);
    showGiven(trial);
    heading();
    $("trouble").textContent = "";
    $("back").disabled = index === 0;
    enable(false);
    view("trial", "heading");
    start(shown);
  }
  function start(pair) { // once all videos are loaded
    const check = () => {
      if (shown !== pair || pair.ready) return;
      if (pair.videos.some((v) => v.error)) return failed(pair);
      if (!pair.videos.every((v) => v.readyState >= 2)) return;
      pair.ready = true;
      pair.since = performance.now();
      restart();
    };
    for (const video of pair.videos) {
      for (const name of ["loadeddata", "canplay", "error"]) video.addEventListener(name, check);
      // phones load nothing before play()
      if (video.readyState < 2) video.play().then(() => { if (!pair.ready || paused) video.pause(); }, () => {});
    }
    check();
  }
  function failed(pair) {
    const again = document.createElement("button");
    again.textContent = "Try again";
    again.onclick = () => { elements.clear(); show(cursor); };
    $("trouble").replaceChildren("A video could not be loaded. ", again);
    pair.videos.forEach((v) => v.pause());
  }
  function enable(yes) {
    $("choose-a").disabled = $("choose-b").disabled = $("choose-tie").disabled = !yes;
  }
  function setPaused(yes) {
    paused = yes;
    $("pause").textContent = yes ? "Play" : "Pause";
    $("pause").setAttribute("aria-pressed", String(yes));
    if (yes) shown?.videos.forEach((v) => v.pause());
    else if (shown?.ready) { if (shown.videos.every(atEnd)) restart(); else play(); }
  }

  // ---- votes ----------------------------------------------------------------------------------------------------
  function vote(choice) {
    const button = $(`choose-${{ left: "a", right: "b", tie: "tie" }[choice]}`);
    if (!shown?.ready || button.disabled || button.hidden) return;
    const { trial, question } = shown;
    const id = [...crypto.getRandomValues(new Uint8Array(12))].map((b) => b.toString(16).padStart(2, "0")).join("");
    const seconds = Math.round(performance.now() - shown.since) / 1000;
    unsent.push({ id, pair: trial.pair, repeat: trial.repeat, question, choice, seconds });
    answered.add(key(trial, question));
    save();
    send();
    if (question + 1 < study.questions.length && !answered.has(key(trial, question + 1))) askNext(question + 1);
    else next();
  }
  function askNext(question) { // the same videos keep playing
    shown.question = question;
    shown.since = performance.now();
    heading();
    $("heading").focus({ preventScroll: true });
  }
  function next() {
    for (const [i, trial] of trials.entries()) {
      const question = study.questions.findIndex((_, q) => !answered.has(key(trial, q)));
      if (question >= 0) return show(i, question);
    }
    finish();
  }

  // votes are sent in order; the service stores each id once
  let sending = false;
  let stopped = "";
  let code = null;
  async function send() {
    if (sending || !unsent.length || stopped) return;
    sending = true;
    let stored = false;
    const batch = unsent.slice(0, 1000);
    try {
      ({ code } = await ask("POST", "votes", JSON.stringify({ votes: batch })));
      unsent = unsent.slice(batch.length);
      stored = true;
      save();
    } catch (error) {
      if ([401, 403, 404, 422].includes(error.status)) stopped = `${error.message}: ${error.fix}`;
      else setTimeout(send, 3000);
    }
    sending = false;
    outcome();
    if (stored) send();
  }
  function finish() {
    shown?.videos.forEach((v) => v.pause());
    shown = null;
    outcome();
    view("end", "thanks");
    send();
  }
  function outcome() {
    const stored = !unsent.length;
    $("outcome").textContent = stopped
      || (stored ? "Your votes are saved. You may close this page." : "Your votes are being sent. Please keep this page open.");
    $("end").dataset.stored = String(stored);
    $("done").hidden = !(stored && code);
    $("code").textContent = code ?? "";
  }

  // ---- views ----------------------------------------------------------------------------------------------------
  function view(name, focus) {
    for (const id of ["problem", "consent", "start", "trial", "end"]) $(id).hidden = id !== name;
    // do not focus a button: space must pause, not vote
    if (focus) $(focus).focus({ preventScroll: true });
  }
  function problem(text) {
    $("why").textContent = text;
    view("problem");
  }
  function resume(plan) {
    ({ trials, videos: clips, code } = plan);
    try { unsent = JSON.parse(storage.get(`unsent/${rater}`)) ?? []; } catch { unsent = []; }
    answered = new Set([...plan.answered, ...unsent.map((v) => [v.pair, v.repeat, v.question])].map((at) => at.join("/")));
    setPaused(paused);
    send();
    next();
  }

  $("choose-a").onclick = () => vote("left");
  $("choose-b").onclick = () => vote("right");
  $("choose-tie").onclick = () => vote("tie");
  $("choose-tie").hidden = $("tie-key").hidden = !study.ties;
  $("decide").hidden = study.ties;
  $("pause").onclick = () => setPaused(!paused);
  $("stage").onclick = () => setPaused(!paused);
  const back = () => { if (cursor > 0) show(cursor - 1); };
  $("back").onclick = back;
  $("again").onclick = () => show(trials.length - 1);
  $("other").hidden = !study.open;
  $("other").onclick = () => { storage.set("rater", ""); location.replace("/study"); };
  document.addEventListener("keydown", (event) => {
    const native = event.target.closest("button, a");
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || $("trial").hidden) return;
    if (event.key === "ArrowLeft") vote("left");
    else if (event.key === "ArrowRight") vote("right");
    else if (event.key === "ArrowDown") vote("tie");
    else if (event.key === " " && !native) setPaused(!paused);
    else if (event.key === "Backspace") back();
    else return;
    event.preventDefault();
  });
  addEventListener("hashchange", () => location.reload());

  $("count").textContent = String(study.count);
  $("questions").replaceChildren(...study.questions.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  $("instructions").textContent = study.instructions;
  $("consent-text").textContent = study.consent;
  $("agree").onclick = () => view("start");
  const refuse = (error) =>
    problem(error.status ? `${error.message}: ${error.fix}.` : "The study cannot be reached. Please try again.");
  $("begin").onclick = async () => {
    $("begin").disabled = true;
    try {
      if (!rater) ({ rater } = await ask("POST", "raters"));
      storage.set("rater", rater);
      resume(await ask("POST", "begin?agreed=true"));
    } catch (error) { refuse(error); }
  };
  // the signed id follows the #, which browsers never send to a server
  rater = decodeURIComponent(location.hash.slice(1)) || storage.get("rater") || "";
  if (!rater && !study.open) return problem("Please open the link that you were given.");
  try {
    const plan = rater ? await ask("POST", "begin") : null;
    if (plan) resume(plan); else view(study.consent ? "consent" : "start");
  } catch (error) { refuse(error); }
})();
