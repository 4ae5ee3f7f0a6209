// The page: takes a recording, sends it as it is, and shows what the server tells line by line.
// With `auto` it is sent once more, and the model chooses the loops.

import { Live } from "./live.js";
import { Picture } from "./picture.js";
import { Player } from "./player.js";
import { Recorder, whyNoRecording } from "./recorder.js";
import { ask, keepKey, linesOf, takeKeyFromAddress, WrongKey } from "./server.js";
import { Texts } from "./texts.js";

const SPEAK = "Speak: what may still change is grey.";
const AUTO = "as many loops as each stretch of speech needs";
const part = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const player = new Player(part.audio, part["no-audio"]);
const picture = new Picture(part.scroll, part.breadth, part.canvas, part.zoom, (seconds) => player.playFrom(seconds));
const texts = new Texts(part, (words) => picture.setWords(words), playWord);
let model = null;
let sending = null;
let lastFile = null;

function say(sentence) {
  // Readers of the screen say again what is set again.
  if (part.status.textContent !== sentence) {
    part.status.textContent = sentence;
  }
}

function fail(sentence) {
  say("");
  part.error.textContent = sentence;
  part.error.hidden = false;
}

function playWord(word) {
  picture.choose(word);
  const strong = document.createElement("strong");
  strong.textContent = word.text;
  part.place.replaceChildren(strong, ` from ${word.start_s.toFixed(2)} to ${word.end_s.toFixed(2)} s`);
  player.playFrom(word.start_s);
}

// Recognise a file; a later one takes the place of an earlier one.
async function send(file) {
  sending?.abort();
  lastFile = file;
  const isAuto = part.auto.checked;
  const control = new AbortController();
  sending = control;
  part.error.hidden = true;
  part.result.hidden = true;
  part.progress.removeAttribute("value");
  part.progress.hidden = part.cancel.hidden = false;
  say(`Sending ${file.name} …`);
  try {
    if (file.size > model.most_bytes) {
      throw new Error(`${file.name} ${model.too_large}`);
    }
    player.load(file);
    const form = new FormData();
    if (isAuto) {
      form.append("auto", "true");
    }
    form.append("file", file);
    await showLines(file, isAuto, await ask("demo/transcribe", { method: "POST", body: form, signal: control.signal }));
  } catch (error) {
    if (sending === control) {
      error.name === "AbortError" ? say("Cancelled.") : fail(error.message);
    }
  } finally {
    if (sending === control) {
      sending = null;
      part.progress.hidden = part.cancel.hidden = true;
    }
  }
}

async function showLines(file, isAuto, response) {
  const start = performance.now();
  let seconds = 0;
  for await (const line of linesOf(response)) {
    if (line.kind === "sound") {
      seconds = line.seconds;
      showSound(line, isAuto);
      say(`Recognising ${file.name}, ${seconds.toFixed(1)} s …`);
    } else if (line.kind === "progress") {
      part.progress.max = seconds;
      part.progress.value = line.end_s;
      texts.add(line.added);
    } else {
      showResult(line);
      say(`${file.name}: ${seconds.toFixed(1)} s, recognised in ${((performance.now() - start) / 1000).toFixed(1)} s.`);
    }
  }
}

function showSound(line, isAuto) {
  part.result.hidden = false;
  part.merged.hidden = true;
  part.place.textContent = "Click a word, or a place in the picture, to hear it.";
  texts.begin(model.loops, isAuto);
  picture.show(line);
}

function showResult({ loops, merged, mean_loops: meanLoops }) {
  picture.setMerged(merged);
  texts.finish(loops, meanLoops);
  if (merged.length) {
    const before = merged.reduce((sum, each) => sum + each.num_frames, 0);
    const after = merged.reduce((sum, each) => sum + each.edges_s.length - 1, 0);
    const key = document.createElement("span");
    key.className = "key";
    key.setAttribute("aria-hidden", "true");
    const percent = Math.round((100 * after) / before);
    const said = ` Affinity pooling: the encoder reads ${after} frames in place of ${before} (${percent} %). Coloured blocks below the picture are frames that it merged.`;
    part.merged.replaceChildren(key, said);
    part.merged.hidden = false;
  }
}

// Recording --------------------------------------------------------------------------------------------------------

function setUpRecording() {
  const why = whyNoRecording();
  part["no-recording"].textContent = why;
  part["no-recording"].hidden = why === "";
  part.record.disabled = why !== "";
  const recorder = new Recorder(part.level, part.clock, model.most_s);
  part.stop.addEventListener("click", () => recorder.stop());
  part.record.addEventListener("click", () => record(recorder));
}

async function record(recorder) {
  part.error.hidden = true;
  part.record.disabled = true;
  say("Waiting for the microphone …");
  const hadFocus = document.activeElement === part.record;
  try {
    const file = await recorder.record(() => {
      showRecording(true);
      say("Recording. Stop to see what you said.");
      part.stop.focus();
    });
    send(file);
  } catch (error) {
    fail(error.message);
  } finally {
    showRecording(false);
    part.record.disabled = false;
    if (hadFocus || document.activeElement === document.body) {
      part.record.focus();
    }
  }
}

function showRecording(isOn, stop = part.stop) {
  part.live.hidden = stop.hidden = !isOn;
  part.record.hidden = part.choose.hidden = part.hint.hidden = isOn;
  part.listen.hidden = isOn || model.live === null;
}

// Live -------------------------------------------------------------------------------------------------------------

function setUpLive() {
  part.listen.hidden = model.live === null;
  if (model.live === null) {
    return;
  }
  part.listen.disabled = part.record.disabled;
  const live = new Live(part.level, part.clock, model.live.rate);
  part.hush.addEventListener("click", () => {
    part.hush.disabled = true;
    live.stop();
  });
  part.listen.addEventListener("click", () => listen(live));
}

async function listen(live) {
  part.error.hidden = part.result.hidden = true;
  part.record.disabled = part.listen.disabled = true;
  part.finals.textContent = part.partial.textContent = "";
  say("Waiting for the microphone …");
  try {
    const done = await live.listen(
      () => {
        part.heard.hidden = part.hush.disabled = false;
        showRecording(true, part.hush);
        say(SPEAK);
        part.hush.focus();
      },
      showSaid,
      (seconds) => say(seconds > 1 ? `The server is ${seconds.toFixed(0)} s behind.` : SPEAK),
    );
    part.partial.textContent = "";
    say(`${done.duration.toFixed(1)} s heard.`);
  } catch (error) {
    fail(error.message);
  } finally {
    showRecording(false, part.hush);
    part.record.disabled = part.listen.disabled = false;
    if (document.activeElement === document.body) {
      part.listen.focus();
    }
  }
}

function showSaid({ type, text }) {
  if (type === "final") {
    part.finals.append(part.finals.textContent && text ? ` ${text}` : text);
  }
  part.partial.textContent = type === "final" ? "" : text;
}

// Files ------------------------------------------------------------------------------------------------------------

function setUpFiles() {
  part.file.addEventListener("change", () => {
    const [file] = part.file.files;
    // So that the same file can be chosen again.
    part.file.value = "";
    if (file) {
      send(file);
    }
  });
  const stop = (event) => {
    event.preventDefault();
    part.give.classList.toggle("over", event.type === "dragover");
  };
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, stop);
  }
  document.addEventListener("drop", (event) => {
    const [file] = event.dataTransfer.files;
    if (file) {
      send(file);
    }
  });
  part.cancel.addEventListener("click", () => sending?.abort());
  part.auto.addEventListener("change", () => send(lastFile));
}

function followSound() {
  if (player.isPlaying) {
    picture.setHead(player.seconds);
    requestAnimationFrame(followSound);
  }
}

async function begin() {
  try {
    model = await (await ask("demo/model")).json();
  } catch (error) {
    part.model.textContent = "";
    part["ask-key"].hidden = !(error instanceof WrongKey);
    fail(error.message);
    return;
  }
  part["ask-key"].hidden = part.error.hidden = true;
  part.model.textContent = `Model: ${model.name}`;
  part.auto.disabled = !model.auto.is_allowed;
  part["auto-why"].textContent = model.auto.is_allowed ? AUTO : model.auto.why;
  part.guessed.hidden = model.has_word_times;
  part.audio.addEventListener("play", followSound);
  setUpRecording();
  setUpLive();
  setUpFiles();
}

part["ask-key"].addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey(part.key.value);
  begin();
});
takeKeyFromAddress();
begin();
