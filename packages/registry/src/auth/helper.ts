import { classified } from "@stevedore/base";
import { parseJson } from "@stevedore/oci";
import { conforms, isString, shape } from "@stevedore/oci/json-check";
import { redactText } from "../redact.ts";
import type { Credential } from "./credentials.ts";

/** What a helper left when it ended. */
export interface HelperOutcome {
  readonly code: number;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
}

/**
 * Starts a credential helper (`docker-credential-<name>`) with arguments and input, and waits for its end. Injected, so
 * that this package starts no process by itself; see `processHelpers` in `helper-process.ts` for one.
 */
export type HelperRunner = (
  program: string,
  args: readonly string[],
  options: { readonly stdin: string; readonly signal: AbortSignal },
) => Promise<HelperOutcome>;

/** Bytes of a helper's answer. */
export const MAX_HELPER_OUTPUT = 64 << 10;

/** Names of helpers; anything else could name another program. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
/** What helpers say, with exit code 1, when they know nothing of a server. */
const UNKNOWN = /credentials not found|no credentials server URL/i;

interface HelperAnswer {
  readonly Username: string;
  readonly Secret: string;
}

const ANSWER = shape<HelperAnswer>({ Username: isString, Secret: isString });

/** Asks one helper for one server. */
export interface HelperQuestion {
  /** The part behind `docker-credential-`. */
  readonly program: string;
  readonly server: string;
  readonly from: string;
  readonly signal: AbortSignal;
}

/** @throws failed-precondition when it cannot be started or answers something else than docker's protocol */
export async function askHelper(run: HelperRunner, question: HelperQuestion): Promise<Credential | undefined> {
  const { program, server, from, signal } = question;
  const doing = `credentials for ${redactText(server)} from docker-credential-${redactText(program)}`;
  if (!NAME.test(program)) throw classified("invalid-argument", `${doing}: not a helper's name`);
  let outcome: HelperOutcome;
  try {
    outcome = await run(`docker-credential-${program}`, ["get"], { stdin: `${server}\n`, signal });
  } catch (error) {
    signal.throwIfAborted();
    // The system's message names the program, not its input.
    throw classified("failed-precondition", `${doing}: ${redactText(error instanceof Error ? error.message : "")}`, {
      cause: error,
    });
  }
  const text = Buffer.from(outcome.stdout).toString("utf8");
  if (outcome.code !== 0) {
    const said = `${text} ${Buffer.from(outcome.stderr).toString("utf8")}`;
    if (UNKNOWN.test(said)) return undefined;
    throw classified("failed-precondition", `${doing}: exit status ${outcome.code}: ${redactText(said)}`);
  }
  const answer = readAnswer(text);
  // What it printed may be half a secret, so it is not shown.
  if (answer === undefined)
    throw classified("failed-precondition", `${doing}: the answer is no JSON of Username and Secret`);
  if (answer.Secret === "") return undefined;
  return answer.Username === "<token>" || answer.Username === ""
    ? { kind: "identity-token", token: answer.Secret, from }
    : { kind: "basic", username: answer.Username, password: answer.Secret, from };
}

function readAnswer(text: string): HelperAnswer | undefined {
  try {
    const document: unknown = parseJson(text, { maxSize: MAX_HELPER_OUTPUT });
    return conforms<HelperAnswer>(document, ANSWER) ? document : undefined;
  } catch {
    return undefined;
  }
}
