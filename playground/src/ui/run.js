/** A playground of a run that is computed at once and then shown up to a step. */
import { panel, presetButtons } from "./controls.js";
import { h } from "./dom.js";
import { facts } from "./facts.js";
import { address, frames, layout, status } from "./page.js";
import { player } from "./player.js";

/** @typedef {import("./controls.js").Control} Control */
/** @typedef {import("./plot.js").Plot} Plot */
/** @typedef {Record<string, number>} Values */

/**
 * Controls and presets beside a player, the plots and a table. The run is computed anew when a
 * control is moved; the plots are drawn anew when another step is shown, too.
 *
 * @template State
 * @template {Record<string, Plot>} Plots
 * @param {object} options
 * @param {Record<string, Control>} options.controls
 * @param {Record<string, Values>} options.presets by name
 * @param {string} options.caption of the table
 * @param {(values: Values) => State} options.compute
 * @param {(state: State) => number} options.length the last step of the run
 * @param {(length: number) => number} [options.rate] steps a second when playing
 * @param {(redraw: () => void) => Plots} options.plots
 * @param {(plots: Plots) => Plot[]} options.overSteps those whose axis is the step: they are
 *     wide, and a drag moves the step
 * @param {(plots: Plots, changed: () => void) => void} [options.connect] what other drags do;
 *     changed is to be called when a control has been set
 * @param {(state: State, plots: Plots, values: Values) => {verdict: string, rows: [string, string][]}}
 *     options.describe sets what does not depend on the step, and says what came out
 * @param {(state: State, plots: Plots, step: number) => string} options.draw draws the plots, and
 *     says where the run is
 */
export function shownRun(options) {
  const { controls, compute, length, describe } = options;
  const form = panel(Object.values(controls), changed);
  const presets = presetButtons("Start from", options.presets, (values) => {
    show(values);
    link.write();
  });
  const drawing = frames(draw);
  const plots = options.plots(drawing.request);
  for (const plot of options.overSteps(plots)) {
    plot.element.classList.add("pg-wide");
    plot.onDrag((t) => {
      play.pause();
      play.move(Math.round(t));
    });
  }
  options.connect?.(plots, changed);
  const line = status();
  const verdict = h("p", { class: "pg-verdict" });
  const table = facts(options.caption);
  let state = compute(form.values());
  const play = player({
    length: () => length(state),
    moved: drawing.request,
    rate: options.rate,
  });
  const link = address({ values: form.values, set: show });

  /** Set the controls, and show the whole run. @param {Values} values */
  function show(values) {
    form.set(values);
    play.pause();
    state = compute(form.values());
    play.move(Infinity);
    refresh();
  }

  function changed() {
    state = compute(form.values());
    refresh();
    link.write();
  }

  function refresh() {
    const values = form.values();
    play.refresh();
    presets.mark(values);
    const said = describe(state, plots, values);
    verdict.textContent = said.verdict;
    table.set(said.rows);
    drawing.request();
  }

  function draw() {
    line.say(options.draw(state, plots, play.at()));
  }

  refresh();
  return {
    elements: [
      layout(
        [presets.element, form.element],
        [
          h("div", { class: "pg-bar" }, play.element, link.element),
          line.element,
          verdict,
          h("div", { class: "pg-plots" }, ...Object.values(plots).map((plot) => plot.element)),
          table.element,
        ],
      ),
    ],
    values: form.values,
    state: () => state,
    at: play.at,
    times: drawing.times,
  };
}
