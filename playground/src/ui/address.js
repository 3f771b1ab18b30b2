/**
 * The state of a playground in the page's address, after the "#": there it also works for a page
 * opened from a disk.
 */
import { button } from "./controls.js";
import { h } from "./dom.js";

/** The numbers in the address, by key; {} for an address that leads to a section. */
export function readAddress() {
  /** @type {Record<string, number>} */
  const values = {};
  for (const [key, text] of new URLSearchParams(location.hash.slice(1))) {
    const value = Number(text);
    if (text !== "" && Number.isFinite(value)) values[key] = value;
  }
  return values;
}

/** @param {Record<string, number>} values */
export function addressOf(values) {
  const pairs = Object.entries(values).map(([key, value]) => [key, String(value)]);
  return `${location.href.split("#")[0]}#${new URLSearchParams(pairs)}`;
}

let timer = 0;

/**
 * Put values into the address, without an entry in the history, soon: browsers allow some hundred
 * such changes in half a minute, and a slider makes more.
 *
 * @param {Record<string, number>} values
 */
export function writeAddress(values) {
  clearTimeout(timer);
  const address = addressOf(values);
  timer = setTimeout(() => history.replaceState(null, "", address), 200);
}

/**
 * A button that copies the address of the present state.
 *
 * @param {() => Record<string, number>} values
 */
export function copyLink(values) {
  const said = h("span", { class: "pg-copied", role: "status" });
  const copy = button("Copy link", async () => {
    const address = addressOf(values());
    history.replaceState(null, "", address);
    said.textContent = (await toClipboard(address)) ? "Copied." : "The link is in the address bar.";
    setTimeout(() => (said.textContent = ""), 4000);
  });
  return h("span", { class: "pg-copy" }, copy, said);
}

/** @param {string} text @returns {Promise<boolean>} */
async function toClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Not allowed here: the address bar holds it.
    return false;
  }
}
