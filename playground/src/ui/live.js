/** A live figure within a chapter: a motion that is computed at once and then shown up to a moment. */
import { panel, presetButtons } from "./controls.js";
import { h } from "./dom.js";
import { bar, frames, status } from "./page.js";
import { player } from "./player.js";
import { reducedMotion } from "./theme.js";

/** @typedef {import("./controls.js").Control} Control */
/** @typedef {import("./plot.js").Plot} Plot */
/** @typedef {Record<string, number>} Values */

/**
 * Where a figure starts: the numbers that its place gives as data-KEY, and else those of its own.
 *
 * @template {Values} T
 * @param {DOMStringMap} given @param {T} own @returns {T}
 */
export function numbers(given, own) {
  const found = Object.entries(own).map(([key, value]) => {
    const text = given[key];
    return [key, text && Number.isFinite(Number(text)) ? Number(text) : value];
  });
  return Object.fromEntries(found);
}

/**
 * A picture, the bar that plays it, more pictures, the words of what they show, and the rest of the
 * controls. It begins at the start, so that the reader can say what will happen, and so does each
 * preset; what came out is told at the end. A control that is moved shows the whole motion at once. Where the reader asked the system for
 * less motion, playing goes from step to step, two a second. On paper the whole motion stands still,
 * without controls.
 *
 * @template State
 * @template {Record<string, Plot>} Plots
 * @param {object} options
 * @param {Record<string, Control>} options.controls
 * @param {Record<string, Values>} options.presets by name
 * @param {(values: Values) => State} options.compute
 * @param {(state: State) => number} options.length the last step
 * @param {number} [options.parts] moments to a step when playing
 * @param {(length: number) => number} [options.rate] steps a second when playing
 * @param {(redraw: () => void) => Plots} options.plots
 * @param {string} [options.main] the control that stands in the bar, if it is not the first
 * @param {(keyof Plots)[]} [options.beside] those that stand side by side where there is room
 * @param {(plots: Plots, actions: {changed: () => void, show: (step: number) => void}) => void}
 *     options.connect what drags in the plots do
 * @param {(state: State, plots: Plots) => string} options.describe sets what does not depend on the
 *     moment, and says what came out
 * @param {(state: State, plots: Plots, step: number) => string} options.draw draws the plots, and
 *     says where the motion is
 */
export function liveFigure(options) {
  const { controls, compute, length, describe } = options;
  const main = controls[options.main ?? Object.keys(controls)[0]];
  const form = panel(Object.values(controls), () => changed(), [main]);
  const presets = presetButtons("Try this", options.presets, show);
  const drawing = frames(draw);
  const plots = options.plots(drawing.request);
  const line = status();
  const verdict = h("p", { class: "pg-verdict", "aria-live": "polite" });
  let state = compute(form.values());
  let outcome = "";
  const still = reducedMotion();
  const play = player({
    length: () => length(state),
    moved: drawing.request,
    parts: still ? 1 : options.parts,
    rate: still ? () => 2 : options.rate,
  });
  options.connect(plots, {
    changed: () => changed(),
    show: (step) => {
      play.pause();
      play.move(Math.round(step));
    },
  });

  /** Set controls, and go to the start. @param {Values} values */
  function show(values) {
    form.set(values);
    changed(0);
  }

  function changed(step = Infinity) {
    play.pause();
    state = compute(form.values());
    play.move(step);
    refresh();
  }

  function refresh() {
    play.refresh();
    presets.mark(form.values());
    outcome = describe(state, plots);
    drawing.request();
  }

  function draw() {
    line.say(options.draw(state, plots, play.at()));
    const said = play.at() >= length(state) ? outcome : "";
    if (verdict.textContent !== said) verdict.textContent = said;
  }

  const elements = Object.entries(plots).map(([name, plot]) => {
    if (!options.beside?.includes(name)) plot.element.classList.add("pg-wide");
    return plot.element;
  });
  window.addEventListener("beforeprint", () => {
    play.pause();
    play.move(Infinity);
    draw();
  });
  play.move(matchMedia("print").matches ? Infinity : 0);
  refresh();
  return {
    elements: [
      h(
        "div",
        { class: "pg-main" },
        pictures(elements, bar(play.element, main.element)),
        line.element,
        verdict,
        presets.element,
        form.element,
      ),
    ],
    values: form.values,
    show,
    state: () => state,
    at: play.at,
    play: play.begin,
    times: drawing.times,
  };
}

/**
 * Pictures, and after the first of them, or where there is room after the first row, what plays them.
 *
 * @param {HTMLElement[]} plots those that are not of the class pg-wide stand in pairs
 * @param {HTMLElement} player
 */
export function pictures(plots, player) {
  const row = plots[0].classList.contains("pg-wide") ? 1 : 2;
  for (const plot of plots.slice(row)) plot.classList.add("pg-later");
  return h("div", { class: "pg-plots" }, plots[0], player, ...plots.slice(1));
}
