/**
 * Shares runs of an action that covers everything done before it began (a sync, a sweep): a caller joins the next run that
 * starts after it asked, so that many callers at once cost two runs, not many. An error reaches all who joined that run.
 */
export function coalesce(run: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  let next: Promise<void> | undefined;
  const start = (): Promise<void> => {
    next = undefined;
    const current = run().finally(() => {
      if (running === current) running = undefined;
    });
    running = current;
    return current;
  };
  return () => {
    if (running === undefined) return start();
    next ??= running.then(start, start);
    return next;
  };
}
