/** A playground of a run that is computed at once and then shown up to a step. */
import { panel, presetButtons } from "./controls.js";
import { h } from "./dom.js";
import { exportButtons } from "./export.js";
import { facts } from "./facts.js";
import { address, bar, frames, layout, status } from "./page.js";
import { player } from "./player.js";

/** @typedef {import("./controls.js").Control} Control */
/** @typedef {import("./plot.js").Plot} Plot */
/** @typedef {Record<string, number>} Values */

/**
 * A player with the learning rate, the plots and a table, and beside them presets and controls. The
 * run is computed anew when a control is moved; the plots are drawn anew when another step is shown,
 * too. A run begins at its first step, so that the reader can say what will happen: what came out is
 * told at the end. A control that is moved shows the whole run at once.
 *
 * @template State
 * @template {Record<string, Plot>} Plots
 * @param {object} options
 * @param {string} options.name as in data-playground
 * @param {Record<string, Control> & {eta: Control}} options.controls
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
  const form = panel(Object.values(controls), changed, [controls.eta]);
  const presets = presetButtons("Try this", options.presets, (values) => {
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
  let outcome = "";
  const play = player({
    length: () => length(state),
    moved: drawing.request,
    rate: options.rate,
  });
  const link = address({ values: form.values, set: show });

  /** Set the controls, and go to the start. @param {Values} values */
  function show(values) {
    form.set(values);
    play.pause();
    state = compute(form.values());
    play.move(0);
    refresh();
  }

  function changed() {
    state = compute(form.values());
    // Where the reader has stopped, that step is shown of the new run.
    if (play.at() === 0) play.move(Infinity);
    refresh();
    link.write();
  }

  function refresh() {
    const values = form.values();
    play.refresh();
    presets.mark(values);
    const said = describe(state, plots, values);
    outcome = said.verdict;
    table.set(said.rows);
    drawing.request();
  }

  function draw() {
    line.say(options.draw(state, plots, play.at()));
    const ended = play.at() >= length(state);
    verdict.textContent = ended ? outcome : "";
    table.element.hidden = !ended;
  }

  play.move(0);
  refresh();
  return {
    elements: [
      bar(play.element, controls.eta.element),
      line.element,
      layout(
        [
          verdict,
          h("div", { class: "pg-plots" }, ...Object.values(plots).map((plot) => plot.element)),
          table.element,
        ],
        [
          presets.element,
          form.element,
          link.element,
          exportButtons(options.name, () => ({ settings: form.values(), run: state }), () =>
            Object.values(plots),
          ),
        ],
      ),
    ],
    values: form.values,
    state: () => state,
    at: play.at,
    times: drawing.times,
  };
}
