import { HealthState } from "@stevedore/wire/grpc/health";
import type { Router } from "@stevedore/wire/rpc/index";

/** Puts the health service on a router; the whole server serves from the start. */
export function registerHealth(router: Router): void {
  new HealthState().register(router);
}
