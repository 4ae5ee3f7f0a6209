// Live recognition: samples go to the server as the microphone hears them, and its texts come back meanwhile.

import { openMicrophone, showLevel } from "./recorder.js";
import { openStream } from "./server.js";

const PATH = "v1/audio/live";
const REFUSED = "The server does not take this stream: it may hear too many already, or have been ended.";
const CUT = "The server ended the stream too early; its log says why.";

export class Live {
  #level;
  #clock;
  #rate;
  #stop = () => {};

  // level: a meter; clock: where the seconds stand; rate: the model's, in Hz.
  constructor(level, clock, rate) {
    this.#level = level;
    this.#clock = clock;
    this.#rate = rate;
  }

  // Resolves to what the server says at the end, after `stop`. Rejects with a sentence.
  // onText is called with each partial and final text; onSlow with the seconds that the server is behind.
  async listen(onStart, onText, onSlow) {
    const microphone = await openMicrophone();
    const [context, source] = openContext(microphone, this.#rate);
    let stopMeter = () => {};
    try {
      await context.audioWorklet.addModule("demo/pcm.js");
      const pcm = new AudioWorkletNode(context, "pcm", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
      const stream = openStream(PATH, context.sampleRate);
      return await new Promise((resolve, reject) => {
        let isReady = false;
        pcm.port.onmessage = ({ data }) => {
          if (stream.readyState !== WebSocket.OPEN) {
            return;
          }
          stream.send(data ?? JSON.stringify({ type: "end" }));
          onSlow(stream.bufferedAmount / 2 / context.sampleRate);
        };
        stream.onmessage = ({ data }) => {
          const said = JSON.parse(data);
          if (said.type === "ready") {
            isReady = true;
            source.connect(pcm);
            stopMeter = showLevel(source, this.#level, this.#clock);
            // What the worklet still holds comes before the word that it is the end.
            this.#stop = () => {
              source.disconnect(pcm);
              pcm.port.postMessage(null);
              this.#stop = () => {};
            };
            // A microphone may be unplugged.
            microphone.getTracks().forEach((track) => track.addEventListener("ended", () => this.stop()));
            onStart();
          } else if (said.type === "done") {
            resolve(said);
          } else if (said.type === "error") {
            reject(new Error(said.message));
          } else {
            onText(said);
          }
        };
        stream.onclose = () => reject(new Error(isReady ? CUT : REFUSED));
      });
    } finally {
      this.#stop = () => {};
      stopMeter();
      microphone.getTracks().forEach((track) => track.stop());
      await context.close();
    }
  }

  stop() {
    this.#stop();
  }
}

// At the model's rate, where the browser resamples; else at the microphone's, and the server resamples.
function openContext(microphone, rate) {
  const context = new AudioContext({ sampleRate: rate });
  try {
    return [context, context.createMediaStreamSource(microphone)];
  } catch {
    context.close();
    const other = new AudioContext();
    return [other, other.createMediaStreamSource(microphone)];
  }
}
