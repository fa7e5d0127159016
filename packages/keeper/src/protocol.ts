/**
 * What is said to a keeper. Each message is one packet of JSON on a SOCK_SEQPACKET socket, with descriptors by SCM_RIGHTS.
 * Numbers that need 64 bits (start ticks) are decimal text.
 */

/** A process by what it is to its container. */
export interface Owner {
  readonly namespace: string;
  readonly container: string;
  /** Exec id; "" for init. */
  readonly exec: string;
}

/** A process on this machine, whatever becomes of its pid. */
export interface ProcessName {
  readonly pid: number;
  /** Clock ticks since boot at its start, decimal. */
  readonly start: string;
}

/** How a process ended, as the keeper saw it. */
export interface KeptExit extends ProcessName {
  /** 0 to 255, 128 plus the number after a signal. */
  readonly code: number;
  /** Milliseconds since the epoch. */
  readonly at: number;
}

/** Names of descriptors that a keeper gives a meaning. */
export const PIDFD = "pidfd";
/** Open for appending: the keeper writes the exit there. */
export const JOURNAL = "journal";

export type Request =
  /** Keeps copies of the descriptors that come along, one for each name; the same name again takes the old one's place. Not answered. */
  | { readonly op: "hold"; readonly owner: Owner; readonly names: readonly string[]; readonly process?: ProcessName }
  /** Closes some of a process's descriptors, or forgets it (and for init the whole container). Not answered. */
  | { readonly op: "drop"; readonly owner: Owner; readonly names?: readonly string[] }
  /** Answers with copies of all that is kept of a container: one message for each process, then an empty one. */
  | { readonly op: "take"; readonly id: number; readonly owner: Owner }
  /** Answers once when the process has been reaped here, or at once when it is no child of the keeper. */
  | { readonly op: "watch"; readonly id: number; readonly process: ProcessName }
  /** Starts a program. Descriptors: a memory file with a {@link SpawnOrder}, then stdin, stdout and stderr. Answers twice. */
  | { readonly op: "spawn"; readonly id: number }
  /** The daemon is there; as long as its connection is, the keeper stays. */
  | { readonly op: "attend"; readonly id: number }
  /** The daemon goes and wants to know whether the keeper goes as well. */
  | { readonly op: "leave"; readonly id: number }
  | { readonly op: "status"; readonly id: number };

/** A program to start; its standard descriptors come along. */
export interface SpawnOrder {
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  readonly cwd: string;
  readonly argv0?: string;
  readonly newSession?: boolean;
}

export type Answer =
  | {
      readonly op: "held";
      readonly id: number;
      /** Absent in the last message. */
      readonly exec?: string;
      readonly names?: readonly string[];
      readonly process?: ProcessName;
      readonly exit?: KeptExit;
    }
  /** Without an exit the keeper cannot know: no child of its own. */
  | { readonly op: "exit"; readonly id: number; readonly exit?: KeptExit }
  | { readonly op: "spawned"; readonly id: number; readonly pid: number }
  | { readonly op: "ended"; readonly id: number; readonly code: number; readonly signal?: number }
  | { readonly op: "attended"; readonly id: number; readonly pid: number }
  | { readonly op: "left"; readonly id: number; readonly ends: boolean }
  | {
      readonly op: "status";
      readonly id: number;
      readonly containers: number;
      readonly descriptors: number;
      readonly children: number;
    }
  | { readonly op: "failed"; readonly id: number; readonly message: string; readonly errorClass: string };

/** What a message may measure at most; the longest are owners with long ids, and names. */
export const MAX_MESSAGE_BYTES = 16 << 10;

/** Tells a shim where its keeper listens. */
export const KEEPER_VARIABLE = "STEVEDORE_KEEPER";
