// The texts of all loops: the slider, the words of the chosen loop, what changed, and a table of all.

const ROLES = ["row", "rowheader", "cell", "cell"];

export class Texts {
  #parts;
  #onShow;
  #onWord;
  #loops = [];
  #place = 0;
  #words = [];
  // Whether the model chooses the loops, and how many it used on average; null where there was no speech.
  #isAuto = false;
  #meanLoops = null;

  // parts: elements of the page by id. onShow is called with the words of a loop that is shown, onWord with a word.
  constructor(parts, onShow, onWord) {
    this.#parts = parts;
    this.#onShow = onShow;
    this.#onWord = onWord;
    parts.loop.addEventListener("input", () => this.show(Number(parts.loop.value)));
    parts.text.addEventListener("keydown", (event) => this.#move(event));
    parts.text.addEventListener("click", (event) => {
      const place = this.#words.indexOf(event.target.closest("button"));
      if (place >= 0) {
        this.#focus(place);
        this.#onWord(this.#loops[this.#place].words[place]);
      }
    });
  }

  // Texts that grow while a recording is recognised. numbers: the loops; empty for a model without loops. isAuto: there
  // is one text, whose loops the model chooses.
  begin(numbers, isAuto) {
    const { loop, dial, loops, text, changes } = this.#parts;
    this.#isAuto = isAuto;
    this.#meanLoops = null;
    this.#loops = (numbers.length && !isAuto ? numbers : [0]).map((number) => ({ loop: number, text: "", words: [] }));
    dial.hidden = numbers.length === 0;
    loops.hidden = isAuto || numbers.length === 0;
    this.#parts["loop-marks"].replaceChildren(...numbers.map((number, place) => new Option(number, place)));
    loop.max = numbers.length - 1;
    loop.disabled = true;
    text.replaceChildren();
    // A text that grows is read out once it is whole.
    text.setAttribute("aria-busy", "true");
    changes.textContent = "";
    this.#setPlace(this.#loops.length - 1);
    this.#fillTable();
  }

  // added: what comes behind the text of each loop.
  add(added) {
    for (const each of this.#loops) {
      each.text = [each.text, added[each.loop]].filter(Boolean).join(" ");
    }
    this.#parts.text.textContent = this.#loops[this.#place].text;
    this.#fillTable();
  }

  // loops, meanLoops: those of a line `result` of the server's.
  finish(loops, meanLoops) {
    this.#loops = loops;
    this.#meanLoops = meanLoops;
    this.#parts.loop.disabled = this.#isAuto;
    this.#fillTable();
    this.#parts.text.removeAttribute("aria-busy");
    this.show(this.#place);
  }

  show(place) {
    this.#setPlace(place);
    const { text, words } = this.#loops[place];
    // Some scripts have no spaces between words.
    const gap = text.includes(" ") ? " " : "";
    this.#words = words.map(buttonOf);
    this.#words[0]?.setAttribute("tabindex", "0");
    this.#parts.text.replaceChildren(...this.#words.flatMap((button) => [button, gap]));
    if (words.length === 0) {
      this.#parts.text.textContent = "No words: there is no speech in it, or none that this model knows.";
    }
    this.#parts.changes.textContent = this.#changes(place);
    this.#onShow(words);
  }

  #setPlace(place) {
    this.#place = place;
    const { loop, seconds } = this.#loops[place];
    const depth = this.#isAuto ? this.#used() : plural(loop, "loop");
    const said = `${depth}${seconds === undefined ? "" : `, ${seconds.toFixed(2)} s`}`;
    if (!this.#isAuto) {
      this.#parts.loop.value = place;
    }
    this.#parts.loop.setAttribute("aria-valuetext", said);
    this.#parts["loop-said"].textContent = said;
    this.#markRow();
  }

  #used() {
    return this.#meanLoops === null ? "auto" : `auto: ${plural(Number(this.#meanLoops.toFixed(1)), "loop")} used`;
  }

  #changes(place) {
    const { words, num_gone: numGone } = this.#loops[place];
    if (place === 0 || words.length + numGone === 0) {
      return "";
    }
    const before = `loop ${this.#loops[place - 1].loop}`;
    const numChanged = words.filter((word) => word.is_changed).length;
    const changed = numChanged
      ? `${numChanged} of ${plural(words.length, "word")} changed from ${before}: bold and underlined.`
      : `No word changed from ${before}.`;
    return numGone ? `${changed} ${plural(numGone, "word")} of ${before} ${numGone === 1 ? "is" : "are"} gone.` : changed;
  }

  #fillTable() {
    const rows = this.#loops.map(({ loop, seconds, text, words }) => {
      const [row, number, time, said] = ["tr", "th", "td", "td"].map((name) => document.createElement(name));
      // Narrow screens show rows as blocks, which takes their roles from them.
      [row, number, time, said].forEach((part, index) => part.setAttribute("role", ROLES[index]));
      number.scope = "row";
      number.textContent = loop;
      time.textContent = seconds === undefined ? "…" : `${seconds.toFixed(2)} s`;
      said.append(...(words.length ? words.flatMap((word) => [markOf(word), " "]) : [text]));
      row.append(number, time, said);
      return row;
    });
    this.#parts.loops.tBodies[0].replaceChildren(...rows);
    this.#markRow();
  }

  #markRow() {
    [...this.#parts.loops.tBodies[0].rows].forEach((row, index) => {
      row.setAttribute("aria-current", String(index === this.#place));
    });
  }

  // One word is in the order of tabs, and arrow keys go from there.
  #move(event) {
    const place = this.#words.indexOf(document.activeElement);
    const steps = { ArrowRight: place + 1, ArrowDown: place + 1, ArrowLeft: place - 1, ArrowUp: place - 1, Home: 0 };
    const target = event.key === "End" ? this.#words.length - 1 : steps[event.key];
    if (target !== undefined && this.#words[target] !== undefined) {
      event.preventDefault();
      this.#focus(target);
      this.#words[target].focus();
    }
  }

  #focus(place) {
    this.#words.forEach((button, index) => {
      button.tabIndex = index === place ? 0 : -1;
      button.classList.toggle("chosen", index === place);
    });
  }
}

function buttonOf(word) {
  const button = document.createElement("button");
  button.type = "button";
  button.tabIndex = -1;
  button.textContent = word.text;
  button.classList.toggle("changed", word.is_changed);
  if (word.is_changed) {
    button.setAttribute("aria-label", `${word.text}, changed`);
  }
  return button;
}

function markOf(word) {
  const mark = document.createElement(word.is_changed ? "mark" : "span");
  mark.textContent = word.text;
  mark.classList.toggle("changed", word.is_changed);
  return mark;
}

function plural(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
