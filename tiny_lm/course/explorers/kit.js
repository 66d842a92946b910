// What all explorers share: controls that a keyboard and a screen reader can use,
// drawings that say in words what they show, and a size that follows the page.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; an attribute of null is left out. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for a piece of a drawing. */
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The frame around an explorer, with its title. */
function makeRoot(name, color, ...children) {
  const title = make("p", { class: "title", "aria-hidden": "true" }, name);
  const root = make("div", { class: "explorer", role: "group", "aria-label": name }, title, ...children);
  root.style.setProperty("--technique", color);
  return root;
}

/**
 * A slider over a list of values, with its name before it and its value beside.
 * `marks` puts words below some of the values.
 */
class Slider {
  constructor(name, label, values, say, moved, marks = new Map()) {
    Object.assign(this, { values, say });
    this.input = make("input", { type: "range", name, min: 0, step: 1 });
    this.input.setAttribute("data-lm-suppress-shortcuts", ""); // JupyterLab takes arrows
    this.shown = make("span", { class: "value", "aria-hidden": "true" });
    this.element = make("label", {}, make("span", {}, label), this.shown, this.input);
    if (marks.size) this.element.append(this.scale(marks));
    this.limit(values.length);
    this.input.addEventListener("input", () => moved(this.value));
  }

  scale(marks) {
    const scale = make("span", { class: "scale", "aria-hidden": "true" });
    for (const [value, words] of marks) {
      const mark = make("span", {}, words);
      mark.style.left = `${(100 * this.values.indexOf(value)) / (this.values.length - 1)}%`;
      scale.append(mark);
    }
    return scale;
  }

  get value() {
    return this.values[this.input.value];
  }

  set value(wanted) {
    this.input.value = this.values.indexOf(wanted);
    this.shown.textContent = this.say(wanted);
    this.input.setAttribute("aria-valuetext", this.say(wanted));
  }

  /** Only the first `count` values can be reached. */
  limit(count) {
    this.input.max = count - 1;
  }
}

/** A box to tick, with its name and what is the case now. */
class Switch {
  constructor(name, label, say, moved) {
    this.say = say;
    this.input = make("input", { type: "checkbox", name });
    this.shown = make("span", { class: "value", "aria-hidden": "true" });
    const words = make("span", {}, label);
    this.element = make("label", { class: "switch" }, this.input, words, this.shown);
    this.input.addEventListener("change", () => moved(this.input.checked));
  }

  set value(wanted) {
    this.input.checked = wanted;
    this.shown.textContent = this.say(wanted);
  }
}

/** A choice by name; `names` are pairs of a value and its words. */
class Menu {
  constructor(name, label, names, moved) {
    const options = names.map(([value, words]) => make("option", { value }, words));
    this.input = make("select", { name, "data-lm-suppress-shortcuts": "" }, ...options);
    this.element = make("label", {}, make("span", {}, label), this.input);
    this.input.addEventListener("change", () => moved(this.input.value));
  }

  set value(wanted) {
    this.input.value = wanted;
  }
}

/** A drawing below its title; `show` replaces what is drawn and what it says. */
class Picture {
  constructor(name, height) {
    this.height = height;
    this.title = make("figcaption");
    this.svg = draw("svg", { role: "img" });
    this.element = make("figure", { "data-picture": name }, this.title, this.svg);
  }

  get width() {
    return Math.max(this.element.clientWidth, 200);
  }

  show(title, words, ...pieces) {
    this.title.textContent = title;
    this.svg.setAttribute("aria-label", words);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.svg.replaceChildren(...pieces);
  }
}

/** Call `moved` with the place, and the picture's width, as a pointer drags over it. */
function dragOver(picture, moved) {
  const { svg } = picture;
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    if (event.buttons) moved(event.clientX - box.left, box.width);
  };
  svg.classList.add("drags");
  for (const kind of ["pointerdown", "pointermove"]) svg.addEventListener(kind, follow);
  svg.addEventListener("pointerdown", (event) => svg.setPointerCapture(event.pointerId));
}

/** Numbers with their names; `show` takes {name: [text, exact value]}. */
class Facts {
  constructor() {
    this.element = make("dl");
  }

  show(facts) {
    this.element.replaceChildren(
      ...Object.entries(facts).map(([name, [text, exact]]) =>
        make("div", {}, make("dt", {}, name), make("dd", { "data-value": exact }, text)),
      ),
    );
  }
}

/** Speaks to a screen reader, once the sliders have come to rest. */
class Voice {
  constructor() {
    this.element = make("p", { class: "unseen", role: "status" });
  }

  say(words) {
    this.hush();
    this.timer = setTimeout(() => (this.element.textContent = words), 600);
  }

  hush() {
    clearTimeout(this.timer);
  }
}

/** Call `redraw` whenever the width changes; returns what stops it. */
function followWidth(element, redraw) {
  let width = 0;
  const observer = new ResizeObserver(() => {
    if (element.clientWidth === width) return;
    width = element.clientWidth;
    redraw();
  });
  observer.observe(element);
  return () => observer.disconnect();
}

/**
 * Put an explorer on the page, and draw it again whenever the model moves its choice, or
 * the page its width. Returns what takes it away again.
 */
function mount({ model, el }, root, choice, refresh, voice) {
  const follow = () => {
    Object.assign(choice, model.get("choice"));
    refresh();
  };
  el.replaceChildren(root);
  refresh();
  model.on("change:choice", follow);
  const stop = followWidth(root, refresh);
  return () => {
    stop();
    voice.hush();
    model.off("change:choice", follow);
  };
}

/** Tell the model, and so a notebook's kernel, what was chosen. */
function tell(model, choice) {
  model.set("choice", { ...choice });
  model.save_changes();
}

function text(x, y, words, anchor = "middle") {
  return draw("text", { x, y, "text-anchor": anchor }, words);
}

function line(x1, y1, x2, y2, kind) {
  return draw("line", { x1, y1, x2, y2, class: kind });
}
