// The spectrogram, with merged frames and words below it on the same line of time.

const SOUND_HEIGHT = 160;
const MERGED_HEIGHT = 16;
// Words stand in two rows in turn, so that short ones have room.
const WORD_HEIGHT = 18;
const NUM_ROWS = 2;
const MARK_HEIGHT = 5;
const AXIS_HEIGHT = 20;
const GAP = 4;
const MOST_PIXELS_PER_SECOND = 600;
// Steps between the marks of the axis, in seconds.
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300];

export class Picture {
  #scroll;
  #breadth;
  #canvas;
  #zoom;
  #sound = null;
  #image = null;
  #words = [];
  #merged = [];
  #chosen = null;
  #head = null;

  // onSeek is called with seconds where the picture is clicked.
  constructor(scroll, breadth, canvas, zoom, onSeek) {
    this.#scroll = scroll;
    this.#breadth = breadth;
    this.#canvas = canvas;
    this.#zoom = zoom;
    scroll.addEventListener("scroll", () => this.draw());
    zoom.addEventListener("input", () => this.#resize());
    new ResizeObserver(() => this.#resize()).observe(scroll);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#repaint());
    canvas.addEventListener("click", (event) => {
      onSeek(Math.min(this.#sound.seconds, (event.offsetX + scroll.scrollLeft) / this.#scale));
    });
  }

  // sound: a line `audio` of the server's.
  show(sound) {
    this.#sound = { ...sound, levels: Uint8Array.from(atob(sound.levels), (letter) => letter.charCodeAt(0)) };
    this.#words = [];
    this.#merged = [];
    this.#chosen = null;
    this.#head = null;
    this.#zoom.value = 0;
    this.#scroll.scrollLeft = 0;
    this.#repaint();
  }

  setMerged(merged) {
    this.#merged = merged;
    this.draw();
  }

  setWords(words) {
    this.#words = words;
    this.#chosen = null;
    this.draw();
  }

  choose(word) {
    this.#chosen = word;
    this.#reveal(word.start_s, word.end_s);
    this.draw();
  }

  // Where the sound is that plays.
  setHead(seconds) {
    this.#head = seconds;
    this.#reveal(seconds, seconds);
    this.draw();
  }

  // Pixels a second: from all of the recording in view up to where single frames are seen.
  get #scale() {
    const least = this.#scroll.clientWidth / this.#sound.seconds;
    return least * Math.max(1, MOST_PIXELS_PER_SECOND / least) ** (this.#zoom.value / 100);
  }

  #reveal(from, to) {
    const [left, right] = [from * this.#scale, to * this.#scale];
    const { scrollLeft, clientWidth } = this.#scroll;
    if (left < scrollLeft || right > scrollLeft + clientWidth) {
      this.#scroll.scrollLeft = left - clientWidth / 4;
    }
  }

  #resize() {
    if (this.#sound === null) {
      return;
    }
    const middle = (this.#scroll.scrollLeft + this.#scroll.clientWidth / 2) / this.#breadth.offsetWidth;
    this.#breadth.style.width = `${Math.floor(this.#scale * this.#sound.seconds)}px`;
    this.#scroll.scrollLeft = middle * this.#breadth.offsetWidth - this.#scroll.clientWidth / 2;
    this.draw();
  }

  // Paint the whole spectrogram once, a pixel a level; `draw` stretches what is in view.
  #repaint() {
    if (this.#sound === null) {
      return;
    }
    const { num_columns: width, num_bands: height, levels } = this.#sound;
    const colours = palette();
    const shades = shadesOf([colours.quiet, colours.middle, colours.loud].map(numbersOf));
    const pixels = new ImageData(width, height);
    for (let column = 0; column < width; column += 1) {
      for (let band = 0; band < height; band += 1) {
        const shade = shades[levels[column * height + band]];
        pixels.data.set(shade, 4 * ((height - 1 - band) * width + column));
      }
    }
    this.#image = document.createElement("canvas");
    this.#image.width = width;
    this.#image.height = height;
    this.#image.getContext("2d").putImageData(pixels, 0, 0);
    this.#resize();
  }

  draw() {
    if (this.#sound === null) {
      return;
    }
    const width = this.#scroll.clientWidth;
    const lanes = this.#merged.length ? MERGED_HEIGHT + GAP : 0;
    const height = SOUND_HEIGHT + GAP + lanes + MARK_HEIGHT + NUM_ROWS * WORD_HEIGHT + AXIS_HEIGHT;
    const dense = window.devicePixelRatio || 1;
    this.#canvas.width = width * dense;
    this.#canvas.height = height * dense;
    this.#canvas.style.width = `${width}px`;
    this.#canvas.style.height = `${height}px`;
    const pen = this.#canvas.getContext("2d");
    pen.scale(dense, dense);
    const colours = palette();
    const view = { pen, width, colours, left: this.#scroll.scrollLeft, scale: this.#scale };
    view.x = (seconds) => seconds * view.scale - view.left;
    this.#drawSound(view);
    this.#drawMerged(view, SOUND_HEIGHT + GAP);
    this.#drawWords(view, SOUND_HEIGHT + GAP + lanes);
    this.#drawAxis(view, height - AXIS_HEIGHT);
    if (this.#head !== null) {
      pen.fillStyle = colours.chosen;
      pen.fillRect(view.x(this.#head) - 1, 0, 2, height - AXIS_HEIGHT);
    }
  }

  #drawSound({ pen, width, left, scale }) {
    // Column 0 is centred at 0 s.
    const column = (x) => x / scale / this.#sound.hop_s + 0.5;
    pen.imageSmoothingEnabled = scale * this.#sound.hop_s < 2;
    const [first, last] = [column(left), column(left + width)];
    pen.drawImage(this.#image, first, 0, last - first, this.#image.height, 0, 0, width, SOUND_HEIGHT);
  }

  // A block for each frame that the encoder reads; those that stand for several are coloured, in turn light and dark.
  #drawMerged({ pen, width, colours, x }, top) {
    for (const { edges_s: edges, num_frames: numFrames } of this.#merged) {
      const frame = (edges.at(-1) - edges[0]) / numFrames;
      let isOdd = false;
      for (let index = 0; index + 1 < edges.length; index += 1) {
        const isMerged = edges[index + 1] - edges[index] > 1.5 * frame;
        isOdd = isMerged && !isOdd;
        const [from, to] = [x(edges[index]), x(edges[index + 1])];
        if (to < 0 || from > width) {
          continue;
        }
        pen.fillStyle = colours[isMerged ? (isOdd ? "merged" : "merged-other") : "single"];
        pen.fillRect(from, top, Math.max(0.5, to - from - (to - from > 3 ? 1 : 0)), MERGED_HEIGHT);
        if (isMerged && to - from > 6) {
          pen.globalAlpha = 0.6;
          pen.fillRect(from, 0, 1, SOUND_HEIGHT);
          pen.fillRect(to - 1, 0, 1, SOUND_HEIGHT);
          pen.globalAlpha = 1;
        }
      }
    }
  }

  #drawWords({ pen, width, colours, x }, top) {
    pen.font = "13px system-ui, sans-serif";
    pen.textBaseline = "middle";
    for (const [index, word] of this.#words.entries()) {
      const [from, to] = [x(word.start_s), x(word.end_s)];
      if (to < 0 || from > width) {
        continue;
      }
      const isChosen = word === this.#chosen;
      pen.fillStyle = isChosen ? colours.chosen : colours.accent;
      pen.fillRect(from, top, Math.max(2, to - from), 3);
      // A text reaches to where the next word of its row starts, and is left out where there is no room.
      const end = this.#words[index + NUM_ROWS]?.start_s ?? this.#sound.seconds;
      const room = x(end) - from - 3;
      if (!isChosen && pen.measureText(word.text).width <= room) {
        pen.fillStyle = colours.fore;
        pen.fillText(word.text, from, heightOf(index, top));
      }
    }
    if (this.#chosen !== null) {
      const [from, to] = [x(this.#chosen.start_s), x(this.#chosen.end_s)];
      const height = heightOf(this.#words.indexOf(this.#chosen), top);
      const breadth = pen.measureText(this.#chosen.text).width + 6;
      const left = Math.max(0, Math.min(from, width - breadth));
      pen.fillStyle = colours.chosen;
      pen.fillRect(left, height - WORD_HEIGHT / 2, breadth, WORD_HEIGHT);
      pen.globalAlpha = 0.25;
      pen.fillRect(from, 0, Math.max(2, to - from), SOUND_HEIGHT);
      pen.globalAlpha = 1;
      pen.fillStyle = colours.quiet;
      pen.fillText(this.#chosen.text, left + 3, height);
    }
  }

  #drawAxis({ pen, width, colours, left, scale, x }, top) {
    const step = STEPS.find((each) => each * scale >= 60) ?? STEPS.at(-1);
    pen.fillStyle = colours.faint;
    pen.font = "12px system-ui, sans-serif";
    for (let number = Math.floor(left / scale / step); number * step <= (left + width) / scale; number += 1) {
      pen.fillRect(x(number * step), top, 1, 5);
      pen.fillText(`${Number((number * step).toFixed(1))} s`, x(number * step) + 3, top + 11);
    }
  }
}

// Where the middle of a word's text is, below the top of the words.
function heightOf(index, top) {
  return top + MARK_HEIGHT + ((index % NUM_ROWS) + 0.5) * WORD_HEIGHT;
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["quiet", "middle", "loud", "merged", "merged-other", "single", "chosen", "accent", "fore", "faint"];
  return Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function numbersOf(hex) {
  return [1, 3, 5].map((place) => Number.parseInt(hex.slice(place, place + 2), 16));
}

// 256 colours from the first stop over the second to the third.
function shadesOf(stops) {
  return Array.from({ length: 256 }, (_, level) => {
    const half = level < 128 ? 0 : 1;
    const part = level / 127.5 - half;
    return [...stops[half].map((each, index) => Math.round(each + part * (stops[half + 1][index] - each))), 255];
  });
}
