/**
 * Controls that a reader operates by mouse, touch or keyboard. Each has a key, under which a panel
 * and the page's address know its value.
 */
import { format, h, uniqueId } from "./dom.js";

/**
 * @typedef {object} Control
 * @property {string} key
 * @property {HTMLElement} element
 * @property {() => number} get
 * @property {(value: number) => void} set what is out of range is moved to its edge; calls nothing
 * @property {(listener: () => void) => void} listen called when the reader changes the value
 * @property {(text: string) => void} hint a few words under the control
 */

/**
 * Let what is dragged in a plot set a control by where it is across, or another by where it is up
 * too, to a hundredth.
 *
 * @param {import("./plot.js").Plot} plot
 * @param {() => void} changed called after
 * @param {Control} across
 * @param {Control} [up]
 */
export function dragControls(plot, changed, across, up) {
  const rounded = (/** @type {number} */ value) => Number(value.toFixed(2));
  plot.onDrag((x, y) => {
    across.set(rounded(x));
    up?.set(rounded(y));
    changed();
  });
}

/** A notch of a logarithmic slider changes the value by so much: more than rounding to 3 digits. */
const RELATIVE_NOTCH = 0.02;
const LINEAR_NOTCHES = 1000;

/**
 * A slider with a field for the exact number.
 *
 * @param {object} options
 * @param {string} options.key
 * @param {string} options.label
 * @param {number} options.min
 * @param {number} options.max
 * @param {number} options.value
 * @param {number} [options.step] distance of two notches of a linear scale
 * @param {"linear" | "log"} [options.scale]
 * @param {(value: number) => string} [options.say] the value in words, for screen readers
 * @returns {Control}
 */
export function slider({ key, label, min, max, value, step, scale = "linear", say = format }) {
  const id = uniqueId(key);
  const log = scale === "log";
  const notch = log ? 1 : (step ?? (max - min) / LINEAR_NOTCHES);
  const notches = Math.round(Math.log(max / min) / RELATIVE_NOTCH);
  const decimals = log ? 0 : Math.max(0, Math.ceil(-Math.log10(notch) - 1e-9));
  const toRange = (/** @type {number} */ v) =>
    log ? Math.round((notches * Math.log(v / min)) / Math.log(max / min)) : v;
  const fromRange = (/** @type {number} */ v) => {
    if (!log) return Number(v.toFixed(decimals));
    if (v <= 0) return min;
    if (v >= notches) return max;
    return Number((min * (max / min) ** (v / notches)).toPrecision(3));
  };
  const range = h("input", {
    type: "range",
    id,
    min: log ? 0 : min,
    max: log ? notches : max,
    step: notch,
  });
  const field = h("input", {
    type: "number",
    min,
    max,
    step: "any",
    inputmode: "decimal",
    "aria-label": `${label}, exact value`,
  });
  const hint = h("div", { class: "pg-hint" });
  /** @type {(() => void)[]} */
  const listeners = [];
  let current = value;

  /** @param {number} next @param {HTMLInputElement} [source] the field keeps what is being typed */
  function show(next, source) {
    current = Math.min(max, Math.max(min, next));
    if (source !== range) range.value = String(toRange(current));
    if (source !== field) field.value = String(current);
    range.setAttribute("aria-valuetext", say(current));
  }
  range.addEventListener("input", () => {
    show(fromRange(Number(range.value)), range);
    for (const listener of listeners) listener();
  });
  field.addEventListener("input", () => {
    const typed = field.valueAsNumber;
    const valid = typed >= min && typed <= max;
    field.setAttribute("aria-invalid", String(!valid));
    if (!valid) return;
    show(typed, field);
    for (const listener of listeners) listener();
  });
  // By itself a field would go up and down by ones, past the ends of a short range.
  field.addEventListener("keydown", (event) => {
    const direction = event.key === "ArrowUp" ? 1 : event.key === "ArrowDown" ? -1 : 0;
    if (direction === 0) return;
    event.preventDefault();
    show(fromRange(toRange(current) + direction * notch));
    field.setAttribute("aria-invalid", "false");
    for (const listener of listeners) listener();
  });
  // What was typed out of range becomes the value that is shown.
  field.addEventListener("change", () => {
    const typed = field.valueAsNumber;
    field.setAttribute("aria-invalid", "false");
    show(Number.isNaN(typed) ? current : typed);
    for (const listener of listeners) listener();
  });
  show(value);
  return {
    key,
    element: h(
      "div",
      { class: "pg-control", "data-key": key },
      h("label", { for: id }, label),
      field,
      range,
      hint,
    ),
    get: () => current,
    set: (next) => {
      if (Number.isFinite(next)) show(next);
    },
    listen: (listener) => listeners.push(listener),
    hint: (text) => {
      if (hint.textContent !== text) hint.textContent = text;
    },
  };
}

/**
 * A choice among named values, numbered from 0.
 *
 * @param {object} options
 * @param {string} options.key
 * @param {string} options.label
 * @param {string[]} options.options
 * @param {number} [options.value]
 * @returns {Control}
 */
export function choice({ key, label, options, value = 0 }) {
  const id = uniqueId(key);
  const hint = h("div", { class: "pg-hint" });
  const select = h("select", { id }, ...options.map((name, i) => h("option", { value: i }, name)));
  select.value = String(value);
  return {
    key,
    element: h(
      "div",
      { class: "pg-control pg-choice", "data-key": key },
      h("label", { for: id }, label),
      select,
      hint,
    ),
    get: () => Number(select.value),
    set: (next) => {
      if (Number.isInteger(next) && next >= 0 && next < options.length) {
        select.value = String(next);
      }
    },
    listen: (listener) => select.addEventListener("change", listener),
    hint: (text) => {
      hint.textContent = text;
    },
  };
}

/**
 * A box to tick; its value is 0 or 1.
 *
 * @param {object} options
 * @param {string} options.key
 * @param {string} options.label
 * @param {number} [options.value]
 * @returns {Control}
 */
export function toggle({ key, label, value = 0 }) {
  const id = uniqueId(key);
  const hint = h("div", { class: "pg-hint" });
  const box = h("input", { type: "checkbox", id });
  box.checked = value === 1;
  return {
    key,
    element: h(
      "div",
      { class: "pg-control pg-toggle", "data-key": key },
      box,
      h("label", { for: id }, label),
      hint,
    ),
    get: () => Number(box.checked),
    set: (next) => {
      box.checked = next === 1;
    },
    listen: (listener) => box.addEventListener("change", listener),
    hint: (text) => {
      hint.textContent = text;
    },
  };
}

/**
 * A button.
 *
 * @param {string} label
 * @param {() => void} onclick
 * @param {Record<string, unknown>} [attributes]
 */
export function button(label, onclick, attributes = {}) {
  return h("button", { type: "button", class: "pg-button", onclick, ...attributes }, label);
}

/**
 * Buttons that set several controls at once. The one whose values are all in force is marked.
 *
 * @param {string} label
 * @param {Record<string, Record<string, number>>} presets name -> values by key
 * @param {(values: Record<string, number>) => void} choose
 * @returns {{element: HTMLElement, mark: (values: Record<string, number>) => void}}
 */
export function presetButtons(label, presets, choose) {
  const buttons = Object.entries(presets).map(([name, values]) => ({
    values,
    element: button(name, () => choose(values), { "aria-pressed": "false" }),
  }));
  return {
    element: h(
      "div",
      { class: "pg-presets", role: "group", "aria-label": label },
      h("span", { class: "pg-presets-label", "aria-hidden": "true" }, label),
      ...buttons.map((b) => b.element),
    ),
    mark: (now) => {
      for (const b of buttons) {
        const pressed = Object.entries(b.values).every(([key, v]) => now[key] === v);
        b.element.setAttribute("aria-pressed", String(pressed));
      }
    },
  };
}

/**
 * Controls side by side, and their values under their keys.
 *
 * @param {Control[]} controls
 * @param {() => void} changed called when the reader has changed any of them
 * @param {Control[]} [elsewhere] those of them whose elements the page puts in another place
 */
export function panel(controls, changed, elsewhere = []) {
  for (const control of controls) control.listen(changed);
  return {
    element: h(
      "div",
      { class: "pg-controls" },
      ...controls.filter((c) => !elsewhere.includes(c)).map((c) => c.element),
    ),
    values: () => Object.fromEntries(controls.map((c) => [c.key, c.get()])),
    /** @param {Record<string, number>} values */
    set: (values) => {
      for (const control of controls) {
        if (control.key in values) control.set(values[control.key]);
      }
    },
  };
}
