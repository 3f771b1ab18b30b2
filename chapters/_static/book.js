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

  // A formula in a line of text cannot be broken: one that is too wide is set smaller, to 70 % at
  // the most, below which it could not be read.
  const formulas = ".bd-content mjx-container:not([display])";
  const lines = "p, li, dd, figcaption, h1, h2, h3, h4";

  function fit() {
    for (const formula of document.querySelectorAll(".bd-content mjx-container[data-size]")) {
      formula.style.fontSize = formula.dataset.size;
      delete formula.dataset.size;
    }
    const wide = [];
    for (const formula of document.querySelectorAll(formulas)) {
      const room = formula.closest(lines)?.clientWidth ?? 0;
      const width = formula.firstElementChild?.getBoundingClientRect().width ?? 0;
      if (room > 0 && width > room && !formula.closest("table")) wide.push([formula, room / width]);
    }
    for (const [formula, ratio] of wide) {
      formula.dataset.size = formula.style.fontSize;
      const size = parseFloat(getComputedStyle(formula).fontSize) * Math.max(0.7, 0.99 * ratio);
      formula.style.setProperty("font-size", `${size}px`, "important");
    }
  }

  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    const adapt = () => {
      fit();
      update();
    };
    adapt();
    new ResizeObserver(adapt).observe(document.querySelector("main"));
    document.addEventListener("toggle", adapt, true);
  });
})();
