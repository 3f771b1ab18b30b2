// Bundle the playgrounds: node build.mjs OUT_FOLDER
//
// One classic script for each file of src/pages, because pages opened from a disk (file://) may
// load neither modules nor workers; `import text from "worker:./x.js"` therefore gives the bundled
// text of a worker, to be started from a Blob. lib.js holds the arithmetic alone, for the tests.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const out = path.resolve(process.argv[2]);
const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  charset: "utf8",
  format: "iife",
  target: "es2020",
  legalComments: "none",
  logLevel: "warning",
  metafile: true,
};

const inlineWorker = {
  name: "inline-worker",
  setup(build) {
    build.onResolve({ filter: /^worker:/ }, ({ path: name, resolveDir }) => ({
      path: path.resolve(resolveDir, name.slice("worker:".length)),
      namespace: "inline-worker",
    }));
    build.onLoad({ filter: /.*/, namespace: "inline-worker" }, async ({ path: entry }) => {
      const worker = await esbuild.build({ ...common, entryPoints: [entry], write: false });
      for (const input of Object.keys(worker.metafile.inputs)) packages.add(packageOf(input));
      return { contents: worker.outputFiles[0].text, loader: "text" };
    });
  },
};

/** The package that a bundled file comes from, "" for our own. */
function packageOf(input) {
  return input.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1] ?? "";
}

const packages = new Set();
const pages = readdirSync(path.join(here, "src/pages")).filter((name) => name.endsWith(".js"));
const results = [
  await esbuild.build({
    ...common,
    entryPoints: pages.map((name) => `src/pages/${name}`),
    outdir: out,
    plugins: [inlineWorker],
  }),
  await esbuild.build({
    ...common,
    entryPoints: ["src/lib/index.js"],
    outfile: path.join(out, "lib.js"),
    globalName: "UnstableByDesign",
  }),
];
for (const { metafile } of results) {
  for (const input of Object.keys(metafile.inputs)) packages.add(packageOf(input));
}
packages.delete("");
const notices = [...packages].sort().map((name) => {
  const licence = readFileSync(path.join(here, "node_modules", name, "LICENSE"), "utf8");
  return `${name}\n\n${licence.trim()}\n`;
});
writeFileSync(path.join(out, "licenses.txt"), notices.join("\n----\n\n"));
