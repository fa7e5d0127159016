/** A question, and what to take instead when its answer does not come with the others'. */
export interface Asked<T> {
  readonly answer: Promise<T>;
  /** Absent: the answer is waited for in any case. Called once, when the question is given up. */
  readonly instead?: () => T;
}

/**
 * The answers to questions that were asked at once, in their order. One that is still out `patienceMs` after the last that
 * came (or after the beginning) is given up: who answers at all answers about when the others do.
 *
 * Rejects when a question that was not given up does.
 */
export async function withoutStragglers<T>(asked: readonly Asked<T>[], patienceMs: number): Promise<T[]> {
  const given = new Map<number, T>();
  const out = new Set(asked.keys());
  let heard = performance.now();
  const answers = asked.map(async ({ answer }, index) => {
    try {
      return await answer;
    } finally {
      out.delete(index);
      heard = performance.now();
    }
  });
  const all = Promise.all(answers);
  all.catch(() => undefined);
  while (!(await isWithin(all, heard + patienceMs - performance.now()))) {
    if (performance.now() >= heard + patienceMs) break;
  }
  for (const index of out) {
    const instead = asked[index]?.instead;
    if (instead !== undefined) given.set(index, instead());
  }
  return Promise.all(
    answers.map(async (answer, index) => {
      const known = given.get(index);
      if (known === undefined) return answer;
      answer.catch(() => undefined);
      return known;
    }),
  );
}

/** Whether something ends, well or not, before so many milliseconds have passed. */
export async function isWithin(work: Promise<unknown>, ms: number): Promise<boolean> {
  let isOver = false;
  const late = Promise.withResolvers<void>();
  const timer = setTimeout(() => late.resolve(), Math.max(0, ms));
  const onEnd = (): void => {
    isOver = true;
  };
  await Promise.race([work.then(onEnd, onEnd), late.promise]);
  clearTimeout(timer);
  // The loop may have been late itself: what has come meanwhile is to be heard first.
  if (!isOver) await new Promise((resolve) => setImmediate(resolve));
  return isOver;
}
