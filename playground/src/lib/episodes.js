/**
 * Instability episodes, found while the run goes on: what find_episodes of flatminima.training
 * finds in the trace of a whole run, when the sharpness is measured at every step.
 */

/** The accuracy of a loss evaluated in float64, as FLOAT32_LOSS in Python is for float32. */
export const FLOAT64_LOSS = 32 * 2 ** -53;

/**
 * @typedef {object} Episode
 * @property {number} start the last step at which the loss was at its minimum since the one before
 * @property {number} peak the step of the largest loss
 * @property {number} end the first step at which the loss is back, or the last step so far
 * @property {boolean} explained whether the sharpness exceeded the threshold from start to peak
 * @property {boolean} open whether it is still going on
 */

/** @template T what is remembered of the steps at which an episode may start */
export class EpisodeFinder {
  /** @type {Episode[]} explained ones only; the last may be open */
  episodes = [];
  /** @type {T | undefined} what was remembered of the start of the last explained episode */
  remembered;
  #step = -1;
  #last = Infinity;
  #floor = Infinity;
  #largest = 0;
  /** @type {{step: number, loss: number, exceeded: boolean, memory: T} | undefined} */
  #lowest;
  /** @type {(Episode & {height: number, exceeded: boolean, memory: T}) | undefined} */
  #current;
  /** @type {{loss: number, exceeded: boolean, memory: T} | undefined} the step before */
  #before;

  /** @param {number} [accuracy] of one loss, relative to the largest so far */
  constructor(accuracy = FLOAT64_LOSS) {
    this.accuracy = accuracy;
  }

  /**
   * Take in the next step.
   *
   * @param {number} loss @param {number} sharpness
   * @param {number} threshold in force at this step
   * @param {T} memory
   */
  push(loss, sharpness, threshold, memory) {
    const step = ++this.#step;
    const exceeded = sharpness > threshold;
    // The loss alternates on a skewed valley: the larger of each two successive values counts.
    const larger = step === 0 ? loss : Math.max(loss, this.#last);
    this.#floor = Math.min(this.#floor, larger);
    this.#largest = Math.max(this.#largest, Math.abs(loss));
    const above = larger > this.#floor + 2 * this.accuracy * this.#largest;
    if (above) this.#rise(step, loss, exceeded);
    else {
      if (this.#current && this.#before) {
        // Back: the next start is looked for from the last step of this episode on.
        this.#close();
        this.#lowest = { step: step - 1, ...this.#before };
      }
      if (!this.#lowest || loss <= this.#lowest.loss) {
        this.#lowest = { step, loss, exceeded, memory };
      } else this.#lowest.exceeded ||= exceeded;
    }
    this.#last = loss;
    this.#before = { loss, exceeded, memory };
  }

  /** @param {number} step @param {number} loss @param {boolean} exceeded */
  #rise(step, loss, exceeded) {
    const lowest = this.#lowest;
    if (!lowest) return;
    if (!this.#current) {
      const { step: start, memory } = lowest;
      this.#current = {
        start,
        peak: step,
        end: step,
        explained: false,
        open: true,
        height: -Infinity,
        exceeded: lowest.exceeded,
        memory,
      };
    }
    const current = this.#current;
    current.end = step;
    current.exceeded ||= exceeded;
    if (loss > current.height) {
      current.height = loss;
      current.peak = step;
      if (current.exceeded && !current.explained) {
        current.explained = true;
        this.episodes.push(current);
        this.remembered = current.memory;
      }
    }
  }

  #close() {
    if (this.#current) this.#current.open = false;
    this.#current = undefined;
  }
}
