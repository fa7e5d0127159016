export { runShim } from "./main.ts";
