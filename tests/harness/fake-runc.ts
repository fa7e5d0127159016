// A runc whose checkpoints are marks in a folder, for machines whose kernel criu cannot work with: everything above the runtime is as
// with the real one. A restored container runs its command from the start.
import { chmod, writeFile } from "node:fs/promises";

const SCRIPT = `#!/bin/bash
set -e
global=() fail="$0.fail"
while [ $# -gt 0 ]; do
  case "$1" in
    --root|--log|--log-format|--criu) global+=("$1" "$2"); shift 2 ;;
    --systemd-cgroup) global+=("$1"); shift ;;
    *) break ;;
  esac
done
command=$1
shift || true
[ "$command" = checkpoint ] || [ "$command" = restore ] || exec runc "\${global[@]}" "$command" "$@"
given=("$@") image= work= leave= create=()
while [ $# -gt 1 ]; do
  case "$1" in
    --image-path) image=$2; shift 2 ;;
    --work-path) work=$2; shift 2 ;;
    --leave-running) leave=1; shift ;;
    --bundle|--pid-file|--console-socket) create+=("$1" "$2"); shift 2 ;;
    --no-pivot|--no-new-keyring) create+=("$1"); shift ;;
    --parent-path|--manage-cgroups-mode|--empty-ns) shift 2 ;;
    *) shift ;;
  esac
done
id=$1
mkdir -p "$work"
if [ -e "$fail" ]; then
  log=dump.log
  [ "$command" = checkpoint ] || log=restore.log
  cat "$fail" >"$work/$log"
  echo "criu failed: type NOTIFY errno 0" >&2
  echo "log file: $work/$log" >&2
  exit 1
fi
if [ "$command" = checkpoint ]; then
  mkdir -p "$image"
  printf '%s\\n' "\${given[@]}" >"$image/args"
  echo memory >"$image/pages-1.img"
  echo all >"$image/inventory.img"
  echo '["/dev/null","/dev/null","/dev/null"]' >"$image/descriptors.json"
  if [ -z "$leave" ]; then
    runc "\${global[@]}" kill "$id" KILL
    runc "\${global[@]}" resume "$id" || true
  fi
else
  [ "$(cat "$image/pages-1.img")" = memory ]
  printf '%s\\n' "\${given[@]}" >"$0.restored"
  runc "\${global[@]}" create "\${create[@]}" "$id"
  runc "\${global[@]}" start "$id"
fi
`;

export interface FakeRunc {
  /** For `ctr run --runc-binary`. */
  readonly path: string;
  /** From now on checkpoints and restores fail with this in criu's log; "" ends that. */
  failWith(log: string): Promise<void>;
  /** The arguments of the last restore, without the global ones. */
  restored(): Promise<string[]>;
}

export async function makeFakeRunc(path: string): Promise<FakeRunc> {
  await writeFile(path, SCRIPT);
  await chmod(path, 0o755);
  return {
    path,
    failWith: async (log) => {
      if (log === "") await Bun.file(`${path}.fail`).delete();
      else await writeFile(`${path}.fail`, log);
    },
    restored: async () => (await Bun.file(`${path}.restored`).text()).trimEnd().split("\n"),
  };
}
