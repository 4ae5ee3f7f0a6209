// Records from the microphone, with a level meter and a clock.

const TICK_MS = 100;

// Why this page cannot record; empty if it can.
export function whyNoRecording() {
  if (!window.isSecureContext) {
    return (
      "Recording needs HTTPS, or this page as http://localhost: browsers give the microphone to no other address. " +
      "Files can be chosen and dropped all the same."
    );
  }
  if (!navigator.mediaDevices?.getUserMedia || !window.MediaRecorder) {
    return "This browser cannot record. Files can be chosen and dropped all the same.";
  }
  return "";
}

// Rejects with a sentence.
export async function openMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    throw new Error(sentenceOf(error));
  }
}

// Shows how loud a source is and the seconds since now, until the function that it returns is called.
export function showLevel(source, level, clock, onTick = () => {}) {
  const analyser = source.context.createAnalyser();
  source.connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const start = performance.now();
  const tick = setInterval(() => {
    const seconds = (performance.now() - start) / 1000;
    analyser.getFloatTimeDomainData(samples);
    level.value = Math.min(1, 3 * Math.sqrt(samples.reduce((sum, each) => sum + each * each, 0) / samples.length));
    clock.textContent = `${seconds.toFixed(1)} s`;
    onTick(seconds);
  }, TICK_MS);
  return () => clearInterval(tick);
}

export class Recorder {
  #level;
  #clock;
  #mostSeconds;
  #recorder = null;

  // level: a meter; clock: where the seconds stand; mostSeconds: where a recording ends by itself.
  constructor(level, clock, mostSeconds) {
    this.#level = level;
    this.#clock = clock;
    this.#mostSeconds = mostSeconds;
  }

  // Resolves to what was recorded, after `stop`. Rejects with a sentence.
  async record(onStart) {
    const stream = await openMicrophone();
    const context = new AudioContext();
    const stopMeter = showLevel(context.createMediaStreamSource(stream), this.#level, this.#clock, (seconds) => {
      if (seconds >= this.#mostSeconds) {
        this.stop();
      }
    });
    try {
      this.#recorder = new MediaRecorder(stream);
      onStart();
      return await this.#recorded();
    } catch (error) {
      throw new Error(sentenceOf(error));
    } finally {
      this.#recorder = null;
      stopMeter();
      stream.getTracks().forEach((track) => track.stop());
      await context.close();
    }
  }

  stop() {
    if (this.#recorder?.state === "recording") {
      this.#recorder.stop();
    }
  }

  #recorded() {
    const recorder = this.#recorder;
    const parts = [];
    return new Promise((resolve, reject) => {
      recorder.ondataavailable = (event) => parts.push(event.data);
      recorder.onerror = (event) => reject(event.error ?? new Error("the recorder stopped"));
      recorder.onstop = () => {
        const type = recorder.mimeType || "audio/webm";
        const suffix = type.split(";")[0].split("/")[1];
        resolve(new File(parts, `recording.${suffix}`, { type }));
      };
      recorder.start();
    });
  }
}

function sentenceOf(error) {
  if (error.name === "NotAllowedError") {
    return "The browser does not give this page the microphone. Allow it at the address bar, or choose a file.";
  }
  if (error.name === "NotFoundError") {
    return "There is no microphone here. Choose a file.";
  }
  return `The microphone cannot be used (${error.message || error.name}). Choose a file.`;
}
