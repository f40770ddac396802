// Makes the driving video follow the result; Gradio provides `element`.
for (const kind of ['play', 'pause', 'seeked']) element.addEventListener(kind, (event) => {
  const [driving, result] = element.querySelectorAll('video');
  if (!result || event.target !== result) return;
  driving.playbackRate = Math.min(16, Math.max(0.0625, driving.dataset.rate));
  driving.currentTime = +driving.dataset.start + result.currentTime * driving.dataset.rate;
  if (result.paused) driving.pause(); else driving.play().catch(() => {});
}, true);
