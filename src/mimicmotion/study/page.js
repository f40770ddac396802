"use strict";
(() => {
  const study = JSON.parse(document.getElementById("study").textContent);
  const $ = (id) => document.getElementById(id);
  const RATER = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const served = location.protocol.startsWith("http");

  // ---- what is kept over a reload -------------------------------------------------------------------------------
  const memory = new Map(); // where the browser keeps nothing (private windows, some disks)
  const keep = {
    get(name) {
      try { return localStorage.getItem(`${study.study}/${name}`); } catch { return memory.get(name) ?? null; }
    },
    set(name, value) {
      try { localStorage.setItem(`${study.study}/${name}`, value); } catch { memory.set(name, value); }
    },
  };
  let rater = "";
  let votes = new Map(); // "pair/repeat" -> vote
  let unsent = new Set();
  const place = (trial) => `${trial.pair.id}/${trial.repeat}`;

  function load(name) {
    rater = name;
    let kept = null;
    try { kept = JSON.parse(keep.get(`rater/${name}`)); } catch { /* a damaged entry is as good as none */ }
    votes = new Map(kept?.votes ?? []);
    unsent = new Set(kept?.unsent ?? []);
    keep.set("rater", name);
  }
  const save = () => keep.set(`rater/${rater}`, JSON.stringify({ votes: [...votes], unsent: [...unsent] }));

  // ---- order and sides, the same for the same rater -------------------------------------------------------------
  function generator(text) {
    let state = 0x811c9dc5; // FNV-1a over the text, then a xorshift
    for (const letter of text) state = Math.imul(state ^ letter.codePointAt(0), 0x01000193) >>> 0;
    state = state || 1;
    const next = () => {
      state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
      return (state >>> 0) / 4294967296;
    };
    for (let i = 0; i < 20; i++) next();
    return next;
  }
  function shuffled(items, random) {
    const out = [...items];
    for (let i = out.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }
  function plan(name) {
    const random = generator(`${study.study}/${name}`);
    const order = shuffled(study.pairs, random).map((pair) => {
      const turned = random() < 0.5;
      return { pair, repeat: 0, left: turned ? pair.b : pair.a, right: turned ? pair.a : pair.b };
    });
    let repeats = Math.min(order.length, Math.round(study.repeat_share * order.length));
    if (study.repeat_share > 0) repeats = Math.max(1, repeats);
    // repeats come in the second half, with the sides exchanged, so that a place or a side is not what is remembered
    const half = Math.ceil(order.length / 2);
    const again = shuffled(order.slice(0, half), random).slice(0, repeats)
      .map((t) => ({ pair: t.pair, repeat: 1, left: t.right, right: t.left }));
    const out = [...order.slice(0, half), ...shuffled([...order.slice(half), ...again], random)];
    for (let i = 1; i < out.length - 1; i++) {
      if (out[i].pair === out[i - 1].pair) [out[i], out[out.length - 1]] = [out[out.length - 1], out[i]];
    }
    return out;
  }

  // ---- videos ---------------------------------------------------------------------------------------------------
  const elements = new Map(); // id -> <video>, of this pair and the next ones
  function element(id) {
    if (!elements.has(id)) {
      const video = document.createElement("video");
      video.muted = true; video.defaultMuted = true; video.playsInline = true; video.preload = "auto";
      video.disableRemotePlayback = true; video.disablePictureInPicture = true;
      video.src = study.videos[id].file;
      elements.set(id, video);
    }
    return elements.get(id);
  }
  const idsOf = (trial) => [trial.left, trial.right, trial.pair.driving].filter(Boolean);
  function preload(from) {
    const wanted = new Set(trials.slice(from, from + 3).flatMap(idsOf));
    for (const [id, video] of elements) {
      if (wanted.has(id)) continue;
      video.pause(); video.removeAttribute("src"); video.load(); video.remove(); // lets the memory go
      elements.delete(id);
    }
    wanted.forEach(element);
  }

  const TICK = 0.1;
  let trials = [];
  let cursor = 0;
  let shown = null; // the pair on the screen
  let paused = calm;

  function restart() {
    for (const video of shown.videos) { video.playbackRate = 1; video.currentTime = 0; }
    play();
  }
  function play() {
    if (!shown || paused || document.hidden) return;
    for (const video of shown.videos) if (!atEnd(video)) video.play().catch(refused);
  }
  // a phone that saves power starts nothing by itself: then the button says Play
  function refused(error) { if (error.name === "NotAllowedError") setPaused(true); }
  const atEnd = (video) => video.ended || (video.duration > 0 && video.currentTime >= video.duration - 0.001);
  // The longest video leads; the others follow it, and wait on their last frame if they are shorter.
  function follow() {
    if (!shown?.ready || paused) return;
    shown.played += TICK;
    if (shown.played >= study.min_seconds) open(true); // only what was running counts
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

  function frame(child, label) {
    child.setAttribute(child.tagName === "IMG" ? "alt" : "aria-label", label);
    return child;
  }
  function showGiven(pair) {
    const given = $("given");
    given.replaceChildren();
    if (pair.reference) {
      const picture = new Image();
      picture.src = pair.reference;
      addGiven(given, frame(picture, "Reference picture"), "the person");
    }
    if (pair.driving) addGiven(given, frame(element(pair.driving), "Driving video"), "the movement");
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

  function show(index) {
    cursor = index;
    const trial = trials[index];
    shown?.videos.forEach((v) => v.pause());
    preload(index);
    const videos = idsOf(trial).map(element);
    const lead = videos[idsOf(trial).map((id) => study.videos[id].seconds).reduce((best, s, i, all) => (s > all[best] ? i : best), 0)];
    shown = { trial, videos, lead, ready: false, since: 0, played: 0 };
    $("a").replaceChildren(frame(element(trial.left), "Video A"));
    $("b").replaceChildren(frame(element(trial.right), "Video B"));
    const clip = study.videos[trial.left];
    $("stage").classList.toggle("wide", clip.width > clip.height * 1.1);
    showGiven(trial.pair);
    $("place").textContent = `${index + 1} / ${trials.length}`;
    $("progress").max = trials.length;
    $("progress").value = trials.filter((t) => votes.has(place(t))).length;
    $("trouble").textContent = "";
    $("back").disabled = index === 0;
    open(false);
    view("trial", "heading");
    $("status").textContent = `Pair ${index + 1} of ${trials.length}`;
    wait(shown);
  }
  function wait(mine) {
    const check = () => {
      if (shown !== mine || mine.ready) return;
      const broken = mine.videos.find((v) => v.error);
      if (broken) return trouble(mine);
      if (!mine.videos.every((v) => v.readyState >= 2)) return;
      mine.ready = true;
      mine.since = performance.now();
      restart();
    };
    for (const video of mine.videos) {
      for (const name of ["loadeddata", "canplay", "error"]) video.addEventListener(name, check);
      // phones load nothing before play()
      if (video.readyState < 2) video.play().then(() => { if (!mine.ready || paused) video.pause(); }, () => {});
    }
    check();
  }
  function trouble(mine) {
    const again = document.createElement("button");
    again.textContent = "Try again";
    again.onclick = () => { elements.clear(); show(cursor); };
    $("trouble").replaceChildren("A video could not be loaded. ", again);
    mine.videos.forEach((v) => v.pause());
  }
  function open(yes) {
    $("choose-a").disabled = $("choose-b").disabled = !yes;
  }
  function setPaused(yes) {
    paused = yes;
    $("pause").textContent = yes ? "Play" : "Pause";
    $("pause").setAttribute("aria-pressed", String(yes));
    if (yes) shown?.videos.forEach((v) => v.pause());
    else if (shown?.ready) { if (shown.videos.every(atEnd)) restart(); else play(); }
  }

  // ---- votes ----------------------------------------------------------------------------------------------------
  function vote(side) {
    if (!shown?.ready || $("choose-a").disabled) return;
    const { trial } = shown;
    const seconds = Math.round(performance.now() - shown.since) / 1000;
    const choice = trial[side];
    votes.set(place(trial), {
      pair: trial.pair.id, repeat: trial.repeat, left: trial.left, right: trial.right, choice, seconds, time: Date.now(),
    });
    unsent.add(place(trial));
    save();
    send();
    next();
  }
  function next() {
    const open = trials.findIndex((t) => !votes.has(place(t)));
    if (open < 0) finish(); else show(open);
  }
  function file(list) {
    return JSON.stringify({ format: "mimicmotion-votes", version: 1, study: study.study, rater, votes: list }, null, 1);
  }

  // `study serve` takes votes as they come; a plain web server or a disk does not, and then the file is the way
  let taker = served ? "unknown" : "none";
  let sending = null;
  function send() {
    if (taker === "none" || sending || !unsent.size) return sending;
    const batch = [...unsent].map((name) => [name, votes.get(name)]).filter(([, v]) => v);
    sending = post(file(batch.map(([, v]) => v))).then((answer) => {
      sending = null;
      if (answer === "stored") {
        taker = "there";
        // an answer that was changed meanwhile has still to go
        for (const [name, sent] of batch) if (votes.get(name) === sent) unsent.delete(name);
        save();
        if (unsent.size) send();
      } else if (answer === "refused") taker = "none";
      else setTimeout(send, 3000);
      outcome();
    });
    return sending;
  }
  async function post(body) {
    try {
      const reply = await fetch("votes", { method: "POST", headers: { "Content-Type": "application/json" }, body });
      if (reply.ok) {
        const data = await reply.json().catch(() => ({}));
        return "stored" in data ? "stored" : "refused";
      }
      const gone = reply.status === 501 || (reply.status >= 400 && reply.status < 500 && ![408, 429].includes(reply.status));
      return gone ? "refused" : "later";
    } catch {
      return "later";
    }
  }
  function finish() {
    shown?.videos.forEach((v) => v.pause());
    shown = null;
    outcome();
    view("end", "thanks");
    send();
  }
  function outcome() {
    const stored = taker === "there" && !unsent.size;
    $("outcome").textContent = stored
      ? "Your votes are stored; there is nothing more to do."
      : taker === "none"
        ? "Please save your votes as a file and send it to whoever asked you."
        : "Your votes are being sent. If this does not change, save them as a file and send it to whoever asked you.";
    $("end").dataset.stored = String(stored);
  }
  function download() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([file([...votes.values()])], { type: "application/json" }));
    link.download = `votes-${rater}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  // ---- the three views ------------------------------------------------------------------------------------------
  function view(name, focus) {
    for (const id of ["start", "trial", "end"]) $(id).hidden = id !== name;
    // focus on no button: space must pause, not vote again
    if (focus) $(focus).focus({ preventScroll: true });
  }
  function begin(name) {
    load(name);
    trials = plan(name);
    setPaused(paused);
    send();
    const open = trials.findIndex((t) => !votes.has(place(t)));
    if (open < 0) finish(); else show(open);
  }
  function anyName() {
    return [...crypto.getRandomValues(new Uint8Array(5))].map((b) => b.toString(16).padStart(2, "0")).join("");
  }

  $("count").textContent = String(plan("anyone").length);
  $("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("rater").value.trim() || anyName();
    if (RATER.test(name)) begin(name);
  });
  $("choose-a").onclick = () => vote("left");
  $("choose-b").onclick = () => vote("right");
  $("pause").onclick = () => setPaused(!paused);
  $("stage").onclick = () => setPaused(!paused);
  $("back").onclick = () => { if (cursor > 0) show(cursor - 1); };
  $("save").onclick = download;
  $("again").onclick = () => show(trials.length - 1);
  $("other").onclick = () => { keep.set("rater", ""); $("rater").value = ""; view("start", "rater"); };
  document.addEventListener("keydown", (event) => {
    const native = event.target.closest("input, button, a");
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || $("trial").hidden) return;
    if (event.key === "ArrowLeft") vote("left");
    else if (event.key === "ArrowRight") vote("right");
    else if (event.key === " " && !native) setPaused(!paused);
    else if (event.key === "Backspace" && cursor > 0) show(cursor - 1);
    else return;
    event.preventDefault();
  });

  const asked = new URLSearchParams(location.search).get("rater") ?? "";
  const last = RATER.test(asked) ? asked : keep.get("rater");
  if (last && RATER.test(last)) begin(last); else view("start", "");
})();
