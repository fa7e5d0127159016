export { createLocalContent, type LocalContentOptions } from "./store.ts";
