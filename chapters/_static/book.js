"use strict";
(() => {
  // The search page shows an excerpt of each page found, which a page from the disk may not read.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

  // What is wider than the text scrolls by itself; a keyboard can scroll only what has focus.
  const scrollers =
    ".bd-content div.math, .bd-content mjx-container[display='true'], .bd-content figure, " +
    ".bd-content table.table";

  function update() {
    for (const element of document.querySelectorAll(scrollers)) {
      if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
      else element.removeAttribute("tabindex");
    }
  }

  // A formula cannot be broken: one that is too wide is set smaller, to 70 % at the most, below
  // which it could not be read. What is still too wide then scrolls, with a hint that it does.
  const formulas = ".bd-content mjx-container:not([display])";
  const lines = "p, li, dd, figcaption, h1, h2, h3, h4";
  const displays = ".bd-content div.math";

  const rectWidth = (element) => element?.getBoundingClientRect().width ?? 0;

  function widthOf(formula) {
    const group = formula.closest(".unbroken");
    const marks = group ? rectWidth(group) - rectWidth(formula.parentElement) : 0;
    return rectWidth(formula.firstElementChild) + marks;
  }

  // A comma after a formula, or a bracket before it, stays on its line.
  function hold() {
    for (const formula of document.querySelectorAll(formulas)) {
      const math = formula.closest("span.math") ?? formula;
      const { previousSibling: before, nextSibling: after } = math;
      const start = before?.nodeType === 3 ? before.data.search(/\S{1,4}$/) : -1;
      const end = after?.nodeType === 3 ? after.data.match(/^\S{1,8}/)?.[0].length : 0;
      if (start < 0 && !end) continue;
      const group = document.createElement("span");
      group.className = "unbroken";
      math.replaceWith(group);
      if (start >= 0) group.append(before.splitText(start));
      group.append(math);
      if (end) {
        after.splitText(end);
        group.append(after);
      }
    }
  }

  // The name of a test may break after a mark rather than within a word.
  function divide() {
    for (const name of document.querySelectorAll(".bd-content code.literal .pre")) {
      if (name.childElementCount > 0 || name.textContent.length < 24) continue;
      const parts = name.textContent.match(/[^_/:.=]+[_/:.=]*|[_/:.=]+/g);
      name.replaceChildren(...parts.flatMap((part) => [part, document.createElement("wbr")]));
    }
  }

  function reset() {
    for (const formula of document.querySelectorAll(".bd-content mjx-container[data-size]")) {
      formula.style.fontSize = formula.dataset.size;
      delete formula.dataset.size;
    }
    for (const display of document.querySelectorAll(displays)) {
      display.classList.remove("number-below", "scrolls");
    }
  }

  function shrink(formula, ratio) {
    formula.dataset.size = formula.style.fontSize;
    const size = parseFloat(getComputedStyle(formula).fontSize) * Math.max(0.7, 0.99 * ratio);
    formula.style.setProperty("font-size", `${size}px`, "important");
  }

  function fit() {
    reset();
    const wide = [];
    for (const formula of document.querySelectorAll(formulas)) {
      const room = formula.closest(lines)?.clientWidth ?? 0;
      const width = widthOf(formula);
      if (room > 0 && width > room && !formula.closest("table")) wide.push([formula, room / width]);
    }
    // The number of a formula that needs its room stands on a line of its own.
    const crowded = [];
    for (const display of document.querySelectorAll(displays)) {
      const formula = display.querySelector("mjx-container[display='true']");
      const room = display.clientWidth;
      if (!formula || room === 0) continue;
      const width = widthOf(formula);
      const number = display.querySelector(".eqno");
      const gap = parseFloat(getComputedStyle(display).columnGap) || 0;
      if (number && width > room - number.offsetWidth - gap) crowded.push(display);
      if (width > room) wide.push([formula, room / width]);
    }
    for (const display of crowded) display.classList.add("number-below");
    for (const [formula, ratio] of wide) shrink(formula, ratio);
    for (const [formula] of wide) {
      const scrolls = widthOf(formula) > formula.clientWidth + 1;
      formula.closest("div.math")?.classList.toggle("scrolls", scrolls);
    }
  }

  // Panels side by side stand below each other on a phone. Each is the whole picture, of which its
  // frame shows a part; data-panels says where it begins and ends, in shares of the width.
  const NAMES = { 2: ["Left", "Right"], 3: ["Left", "Middle", "Right"] };

  function element(tag, className, style = {}) {
    const made = Object.assign(document.createElement(tag), { className });
    Object.assign(made.style, style);
    return made;
  }

  function stack() {
    for (const image of document.querySelectorAll("img[data-panels]:not(.whole)")) {
      const edges = image.dataset.panels.split(" ").map(Number);
      const panels = element("div", "panels");
      panels.setAttribute("role", "img");
      panels.setAttribute("aria-label", image.alt);
      for (const [i, start] of edges.slice(0, -1).entries()) {
        const share = edges[i + 1] - start;
        const frame = element("div", "panel");
        const part = element("img", "", { width: `${100 / share}%`, marginLeft: `${(-100 * start) / share}%` });
        Object.assign(part, { src: image.src, alt: "" });
        frame.append(part);
        panels.append(NAMES[edges.length - 1]?.[i] ?? "", frame);
      }
      image.classList.add("whole");
      image.after(panels);
    }
  }
  const phone = matchMedia("screen and (max-width: 600px)");
  const stackOnPhone = () => phone.matches && stack();
  phone.addEventListener("change", stackOnPhone);
  stackOnPhone();

  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    hold();
    divide();
    const adapt = () => {
      fit();
      update();
    };
    adapt();
    new ResizeObserver(adapt).observe(document.querySelector("main"));
    document.addEventListener("toggle", adapt, true);
  });
})();
