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

/** Microseconds, of what `threadCpuUsage` tells, in a millisecond. */
const US_PER_MS = 1000;

/**
 * Once this thread has used `ms` milliseconds of processor time; looked at after as many by the clock, then ever less often. On a
 * machine with much to do a short command takes long by the clock, and compiling would take still more from the others.
 */
export function compileAsUsualAfterUse(ms: number): void {
  const look = (waitMs: number): void => {
    setTimeout(() => {
      const { user, system } = process.threadCpuUsage();
      if ((user + system) / US_PER_MS >= ms) compileAsUsual();
      else look(waitMs * 2);
    }, waitMs).unref();
  };
  look(ms);
}
