/**
 * When code is compiled. The build starts every program of the binary reluctant to compile (`--compile-jit-policy` in tools/build.ts): most
 * of them run for milliseconds, and the engine's compiler threads took a third of their processor time for code that runs once. A program that
 * goes on, or that is all loops, takes the engine's own policy back. It is a matter of the calling thread; workers start with the engine's own.
 */

/** From now on. */
export function compileAsUsual(): void {
  Bun.unsafe.setJITPolicy(1);
}

/** In `ms` milliseconds, should the program still run. */
export function compileAsUsualAfter(ms: number): void {
  setTimeout(compileAsUsual, ms).unref();
}
