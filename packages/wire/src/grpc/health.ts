import { classified } from "@stevedore/base";
import { Health, HealthCheckResponse_ServingStatus as Serving } from "../../gen/grpc/health/v1/health_pb.ts";
import type { Router } from "../rpc/router.ts";
import type { CallContext } from "../rpc/types.ts";

export { HealthCheckResponse_ServingStatus as Serving } from "../../gen/grpc/health/v1/health_pb.ts";

/**
 * The state behind grpc.health.v1.Health, as grpc-go's server keeps it: the whole server under the name "", which
 * serves from the start, and services by name.
 */
export class HealthState {
  readonly #states = new Map<string, Serving>([["", Serving.SERVING]]);
  readonly #watchers = new Set<() => void>();

  /** Sets the state of a service and tells those who watch it. */
  set(service: string, state: Serving): void {
    this.#states.set(service, state);
    for (const wake of this.#watchers) wake();
  }

  /** All services stop serving: for the begin of a shutdown. */
  shutDown(): void {
    for (const service of this.#states.keys()) this.#states.set(service, Serving.NOT_SERVING);
    for (const wake of this.#watchers) wake();
  }

  /** Adds the service to a router. */
  register(router: Router): void {
    router.service(Health, {
      check: async ({ service }) => {
        const status = this.#states.get(service);
        if (status === undefined) throw classified("not-found", "unknown service");
        return { status };
      },
      watch: ({ service }, context) => this.#watch(service, context),
    });
  }

  async *#watch(service: string, context: CallContext): AsyncGenerator<{ status: Serving }> {
    let changed = Promise.withResolvers<void>();
    const wake = (): void => changed.resolve();
    this.#watchers.add(wake);
    context.signal.addEventListener("abort", wake, { once: true });
    try {
      let last: Serving | undefined;
      while (!context.signal.aborted) {
        const status = this.#states.get(service) ?? Serving.SERVICE_UNKNOWN;
        if (status !== last) yield { status };
        last = status;
        await changed.promise;
        changed = Promise.withResolvers();
      }
    } finally {
      this.#watchers.delete(wake);
    }
  }
}
