// Sphinx's search takes its weights from this file, which runs on the page of results alone.

// Pages for looking things up, or playing: of texts, theirs come after those that explain.
const ASIDE =
  /^chapters\/(api|bib|course|glossary|notation|playground|reproduced|results|tests|theorems)/;

// A name in code counts more than a word in a text if it is meant exactly, else less; the index of
// titles is searched below.
var Scorer = {
  objNameMatch: 8,
  objPartialMatch: 1,
  objPrio: {},
  objPrioDefault: 0,
  title: 6,
  partialTitle: 4,
  term: 5,
  partialTerm: 2,
  score: ([page, , anchor, , score]) =>
    !anchor && score < 10 && ASIDE.test(page) ? score - 2 : score,
};

// Titles before texts. Sphinx compares a query with a title letter by letter; here its words, in any
// order and form, are looked for in the title and in each of its parts, so that "edge of stability"
// names the chapter "Progressive sharpening and the edge of stability". A title scores by the share
// of its words, and of those of its best part, that are asked for; where they say the same, a chapter
// comes before sections and statements, these before the glossary, and the library comes last.
(() => {
  const stemmer = new Stemmer();
  const wordsOf = (text) =>
    splitQuery(text.toLowerCase())
      .filter((word) => !stopwords.includes(word) && !/^\d+$/.test(word))
      .map((word) => stemmer.stemWord(word));

  let titles = null;
  const read = () =>
    (titles ??= Object.entries(Search._index.alltitles).map(([title, places]) => ({
      title,
      places,
      whole: wordsOf(title),
      parts: title.split(/[:;,.?!()]|\band\b/).map(wordsOf),
    })));

  const share = (words, asked) => {
    const all = asked.every((word) => words.includes(word));
    return all ? asked.length / new Set(words).size : 0;
  };

  const ahead = (page, id, isPage) => {
    if (/^chapters\/(api|results)/.test(page)) return -19;
    if (id?.startsWith("term-")) return 0;
    return isPage ? 40 : 10;
  };

  const searchTexts = Search.performTermsSearch;
  Search.performTermsSearch = (terms, excluded) => {
    const { docnames, filenames, titles: pages } = Search._index;
    const asked = [...terms];
    const found = searchTexts(terms, excluded);
    const best = new Map();
    for (const { title, places, whole, parts } of asked.length ? read() : []) {
      const ofAll = share(whole, asked);
      if (ofAll === 0) continue;
      const ofPart = Math.max(...parts.map((part) => share(part, asked)));
      for (const [file, id] of places) {
        const page = pages[file];
        const name = title === page ? title : `${page} > ${title}`;
        const score = 20 + 60 * ofPart + 40 * ofAll + ahead(docnames[file], id, title === page);
        const anchor = id ? `#${id}` : "";
        const place = docnames[file] + anchor;
        // A place is found once, by the best of its names.
        if (score > (best.get(place)?.[4] ?? 0)) {
          best.set(place, [docnames[file], name, anchor, null, score, filenames[file]]);
        }
      }
    }
    found.push(...best.values());
    return found;
  };

  // What is shown of a page that is found: its text, or that of the part that is named, without
  // what belongs to the page's machinery, and formulas in signs rather than in TeX.
  const MACHINERY =
    "script, style, button, summary, nav, .headerlink, .cell_input, .live-figure, .playground, " +
    "div.math, .toctree-wrapper";
  const GREEK = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron " +
    "pi rho varsigma sigma tau upsilon phi chi psi omega";
  const SIGNS = {
    approx: "≈", le: "≤", leq: "≤", ge: "≥", geq: "≥", ne: "≠", times: "×", cdot: "·", to: "→",
    in: "∈", nabla: "∇", partial: "∂", sum: "∑", sqrt: "√", infty: "∞", pm: "±", ll: "≪", gg: "≫",
    langle: "⟨", rangle: "⟩", lvert: "|", rvert: "|", lVert: "‖", rVert: "‖", top: "ᵀ", ell: "ℓ",
    dots: "…", ldots: "…", varphi: "φ", varepsilon: "ε", Delta: "Δ", Lambda: "Λ", Theta: "Θ", R: "ℝ",
  };
  GREEK.split(" ").forEach((name, i) => (SIGNS[name] = String.fromCharCode(0x3b1 + i)));

  const plain = (tex) =>
    tex
      .replace(/^\\\(|\\\)$/g, "")
      .replace(/\\[td]?frac\s*(\w|{[^{}]*})\s*(\w|{[^{}]*})/g, "$1/$2")
      .replace(/\\([A-Za-z]+)\s*/g, (_, name) => SIGNS[name] ?? "")
      .replace(/_(\d)/g, (_, digit) => String.fromCharCode(0x2080 + Number(digit)))
      .replace(/\^2/g, "²")
      .replace(/\\[,;! ]/g, " ")
      .replace(/[{}\\]/g, "");

  Search.htmlToText = (html, anchor) => {
    const article = new DOMParser()
      .parseFromString(html, "text/html")
      .querySelector("article.bd-article");
    if (!article) return "";
    for (const part of article.querySelectorAll(MACHINERY)) part.remove();
    for (const formula of article.querySelectorAll("span.math")) {
      formula.textContent = plain(formula.textContent);
    }
    // What the result is called already.
    if (!anchor) article.querySelector("h1")?.remove();
    const place = anchor ? `[id="${CSS.escape(anchor.slice(1))}"]` : "";
    const named = place ? article.querySelector(place) : null;
    let text = (named || article).textContent;
    // A term of the glossary is followed by its definition.
    for (let next = named; next?.matches("dt"); ) {
      next = next.nextElementSibling;
      text += `: ${next?.textContent ?? ""}`;
    }
    return text.replace(/\s+/g, " ").trim();
  };

  // An excerpt begins shortly before the first of the words, and ends, with a whole word.
  Search.makeSearchSummary = (html, words, anchor) => {
    const text = Search.htmlToText(html, anchor);
    if (text === "") return null;
    const places = [...words].map((word) => text.toLowerCase().indexOf(word)).filter((i) => i >= 0);
    const near = places.length ? Math.min(...places) - 120 : 0;
    const begin = near > 0 ? text.indexOf(" ", near) + 1 : 0;
    const end = begin + 240 < text.length ? text.lastIndexOf(" ", begin + 240) : text.length;
    const summary = document.createElement("p");
    summary.className = "context";
    summary.textContent =
      (begin > 0 ? "… " : "") + text.slice(begin, end) + (end < text.length ? " …" : "");
    return summary;
  };
})();
