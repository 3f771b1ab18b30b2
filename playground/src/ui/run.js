/** A playground of a run that is computed at once and then shown up to a step. */
import { choice, panel, presetButtons } from "./controls.js";
import { h } from "./dom.js";
import { exportButtons } from "./export.js";
import { facts } from "./facts.js";
import { curvePoints, keeper, keptEntries, keptWords, traceKept } from "./kept.js";
import { address, bar, frames, layout, status } from "./page.js";
import { player } from "./player.js";

/** @typedef {import("./controls.js").Control} Control */
/** @typedef {import("./plot.js").Plot} Plot */
/** @typedef {import("./plot.js").Interval} Interval */
/** @typedef {Record<string, number>} Values */
/** @typedef {{x: Interval, y: Interval}} View what a plot shows */

/**
 * What of kept runs is drawn behind others.
 *
 * @template State
 * @typedef {object} Keeps
 * @property {(values: Values, state: State) => string} name what tells a run from others
 * @property {Record<string, {what?: string, values: (state: State) => ArrayLike<number>}>} curves
 *     values by step for the plots over steps, by their names, and what they are where that is not plain
 * @property {boolean} [rates] whether the axis can be time, as runs of different rates are compared
 * @property {{
 *   plot: string,
 *   points: (state: State) => [ArrayLike<number>, ArrayLike<number>],
 *   over: (values: Values) => string,
 * }} [path] the path in a plane, of those runs over which the plane is the same
 */

/**
 * A player with the learning rate, the plots and a table, and beside them presets and controls. The
 * run is computed anew when a control is moved; the plots are drawn anew when another step is shown,
 * too. A run begins at its first step, so that the reader can say what will happen: what came out is
 * told at the end. A control that is moved shows the whole run at once. Runs can be kept, as far as
 * they are shown, and are drawn behind the present one.
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
 * @param {Keeps<State>} options.keeps
 * @param {(plots: Plots, changed: () => void) => void} [options.connect] what other drags do;
 *     changed is to be called when a control has been set
 * @param {(state: State, plots: Plots, values: Values) => {verdict: string, rows: [string, string][]}}
 *     options.describe sets what does not depend on the step, and says what came out
 * @param {(state: State, plots: Plots, step: number) => string} options.draw draws the plots, and
 *     says where the run is
 */
export function shownRun(options) {
  const { controls, compute, length, describe, keeps } = options;
  const axis = choice({ key: "axis", label: "Axis", options: ["steps", "time, η × steps"] });
  const form = panel(
    [...Object.values(controls), ...(keeps.rates ? [axis] : [])],
    changed,
    [controls.eta],
  );
  const presets = presetButtons("Try this", options.presets, (values) => {
    show(values);
    link.write();
  });
  const drawing = frames(draw);
  const plots = options.plots(drawing.request);
  const overSteps = options.overSteps(plots);
  for (const plot of overSteps) {
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
  let given = settings();
  let state = compute(given);
  let outcome = "";
  /** What the plots show of the present run, by their names. @type {Record<string, View>} */
  let views = {};
  const play = player({
    length: () => length(state),
    moved: drawing.request,
    rate: options.rate,
  });
  const kept = keeper({
    take: () =>
      play.at() === 0
        ? undefined
        : {
            name: keeps.name(given, state),
            settings: given,
            shown: play.at(),
            run: state,
            views,
          },
    changed: refresh,
  });
  const link = address({ values: form.values, set: show });

  /** What the run is computed from. @returns {Values} */
  function settings() {
    const { axis: _, ...values } = form.values();
    return values;
  }

  /** Set the controls, and go to the start. @param {Values} values */
  function show(values) {
    form.set(values);
    play.pause();
    given = settings();
    state = compute(given);
    play.move(0);
    refresh();
  }

  function changed() {
    const next = settings();
    // Another axis makes no other run.
    if (JSON.stringify(next) !== JSON.stringify(given)) {
      given = next;
      state = compute(given);
      // Where the reader has stopped, that step is shown of the new run.
      if (play.at() === 0) play.move(Infinity);
    }
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
    arrange();
    drawing.request();
  }

  /** Make room for the kept runs, and put them behind the present one. */
  function arrange() {
    const runs = kept.runs();
    const time = form.values().axis === 1;
    /** @typedef {typeof runs[number]} Run */
    const stretch = (/** @type {Run} */ run) => (time ? run.settings.eta / given.eta : 1);
    const part = (/** @type {Run} */ run, /** @type {ArrayLike<number>} */ values) =>
      Array.prototype.slice.call(values, 0, run.shown + 1);
    views = Object.fromEntries(
      Object.entries(plots).map(([name, { x, y }]) => [name, { x: x.domain, y: y.domain }]),
    );
    for (const plot of overSteps) {
      plot.x.unit = time ? given.eta : 1;
      plot.x.label = time ? "time ηt" : "step t";
    }
    for (const [name, { what, values }] of Object.entries(keeps.curves)) {
      const plot = plots[name];
      const ends = runs.map((run) => run.shown * stretch(run));
      plot.x.domain = [0, Math.max(views[name].x[1], ...ends)];
      plot.y.domain = hull([views[name].y, ...runs.map((run) => run.views[name].y)]);
      plot.behind({
        entries: keptEntries(runs, what),
        words: (time ? " The axis is time, η times the step." : "") + keptWords(runs, what),
        paint: (p) =>
          traceKept(p, runs, (run) =>
            curvePoints(p, part(run, values(run.run)), (t) => t * stretch(run)),
          ),
      });
    }
    const { path } = keeps;
    if (!path) return;
    const same = runs.filter((run) => path.over(run.settings) === path.over(given));
    const plane = plots[path.plot];
    plane.x.domain = hull([views[path.plot].x, ...same.map((run) => run.views[path.plot].x)]);
    plane.y.domain = hull([views[path.plot].y, ...same.map((run) => run.views[path.plot].y)]);
    plane.behind({
      entries: keptEntries(same),
      words:
        keptWords(same) + (same.length < runs.length ? " Kept runs on another loss are left out." : ""),
      paint: (p) =>
        traceKept(p, same, (run) => {
          const [xs, ys] = path.points(run.run);
          return [part(run, xs), part(run, ys)];
        }),
    });
  }

  function draw() {
    line.say(options.draw(state, plots, play.at()));
    const ended = play.at() >= length(state);
    verdict.textContent = ended ? outcome : "";
    table.element.hidden = !ended;
  }

  /** The present run and the kept ones. */
  function record() {
    const others = kept.runs().map(({ name, settings, shown, run }) => ({ name, settings, shown, run }));
    return { settings: form.values(), run: state, kept: others };
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
          kept.element,
          form.element,
          link.element,
          exportButtons(options.name, record, () => Object.values(plots)),
        ],
      ),
    ],
    values: form.values,
    state: () => state,
    at: play.at,
    kept: kept.runs,
    plots: () => plots,
    times: drawing.times,
  };
}

/** The least interval that holds others. @param {Interval[]} intervals @returns {Interval} */
function hull(intervals) {
  return [Math.min(...intervals.map(([low]) => low)), Math.max(...intervals.map(([, high]) => high))];
}
