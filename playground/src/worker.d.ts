/** "worker:../worker/x.js" is bundled by build.mjs, and its text is what the import gives. */
declare module "worker:*" {
  const source: string;
  export default source;
}
