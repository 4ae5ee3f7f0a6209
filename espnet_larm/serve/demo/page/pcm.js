// Runs beside the page: what the microphone gives becomes messages of a tenth of a second, 16 bits, little-endian.

const MESSAGE_S = 0.1;
const FULL_SCALE = 32767;

class Pcm extends AudioWorkletProcessor {
  #samples = [];

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#send();
      this.port.postMessage(null);
    };
  }

  process([[samples = []]]) {
    this.#samples.push(...samples);
    if (this.#samples.length >= MESSAGE_S * sampleRate) {
      this.#send();
    }
    return true;
  }

  #send() {
    const data = new DataView(new ArrayBuffer(2 * this.#samples.length));
    this.#samples.forEach((sample, place) => {
      data.setInt16(2 * place, Math.round(FULL_SCALE * Math.max(-1, Math.min(1, sample))), true);
    });
    this.#samples = [];
    this.port.postMessage(data.buffer, [data.buffer]);
  }
}

registerProcessor("pcm", Pcm);
