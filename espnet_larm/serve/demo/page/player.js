// Plays a recording from any place.
//
// What is played is the sound that the browser decodes, not the file: a recorder's file says no length, and cannot be
// sought in.

const RATE = 16000;

export class Player {
  #audio;
  #sentence;
  #file = null;

  constructor(audio, sentence) {
    this.#audio = audio;
    this.#sentence = sentence;
  }

  get seconds() {
    return this.#audio.currentTime;
  }

  get isPlaying() {
    return !this.#audio.paused && !this.#audio.ended;
  }

  clear() {
    this.#file = null;
    this.#audio.pause();
    URL.revokeObjectURL(this.#audio.src);
    this.#audio.removeAttribute("src");
    this.#audio.hidden = true;
    this.#sentence.hidden = true;
  }

  async load(file) {
    this.clear();
    this.#file = file;
    let sound = null;
    try {
      // The context's rate is what decodeAudioData brings the sound to.
      sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
    } catch {
      // Text and picture are there all the same.
    }
    if (this.#file !== file) {
      return;
    }
    this.#sentence.hidden = sound !== null;
    this.#audio.hidden = sound === null;
    if (sound !== null) {
      this.#audio.src = URL.createObjectURL(asWav(sound));
    }
  }

  playFrom(seconds) {
    if (this.#audio.hidden) {
      return;
    }
    this.#audio.currentTime = seconds;
    // A browser may refuse, before the page has been clicked for example; the controls are there.
    this.#audio.play().catch(() => {});
  }
}

// The mean of all channels as a WAV of 16 bits.
function asWav(sound) {
  const channels = Array.from({ length: sound.numberOfChannels }, (_, index) => sound.getChannelData(index));
  const samples = new Int16Array(sound.length);
  for (let index = 0; index < samples.length; index += 1) {
    let sum = 0;
    for (const channel of channels) {
      sum += channel[index];
    }
    samples[index] = 32767 * Math.max(-1, Math.min(1, sum / channels.length));
  }
  const header = new DataView(new ArrayBuffer(44));
  const numBytes = samples.byteLength;
  const word = (place, text) => [...text].forEach((letter, index) => header.setUint8(place + index, letter.charCodeAt(0)));
  word(0, "RIFF");
  header.setUint32(4, 36 + numBytes, true);
  word(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, RATE, true);
  header.setUint32(28, 2 * RATE, true); // bytes a second
  header.setUint16(32, 2, true); // bytes a frame
  header.setUint16(34, 16, true); // bits
  word(36, "data");
  header.setUint32(40, numBytes, true);
  return new Blob([header, samples], { type: "audio/wav" });
}
