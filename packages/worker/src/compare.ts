import { classified } from "@stevedore/base/errors";
import type { CompareJob, CompareResult } from "@stevedore/oci/layer-job";

export function runCompare(_job: CompareJob): Promise<CompareResult> {
  throw classified("not-implemented", "compare: not implemented");
}
