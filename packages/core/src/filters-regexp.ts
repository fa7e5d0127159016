/**
 * A matcher for the patterns of `~=`: Go's regular expressions, answered in time linear in the text. The platform's own
 * engine backtracks, and filters come from clients, so one pattern could stop the daemon's loop.
 */

/** Longest pattern in characters. Filters are typed by hand or built from a few names. */
const MAX_PATTERN_LENGTH = 4096;
/** Largest repeat count: Go's limit. */
const MAX_REPEAT = 1000;
/** Most instructions a pattern may compile to; with the longest label (4 KiB) a match stays below 100 ms. */
const MAX_PROGRAM = 10_000;
/** Deepest nesting of groups: Go's limit. */
const MAX_DEPTH = 1000;

type CharTest = (code: number) => boolean;

type Assertion = "text-start" | "text-end" | "line-start" | "line-end" | "word" | "not-word";

type Node =
  | { readonly kind: "empty" }
  | { readonly kind: "char"; readonly test: CharTest }
  | { readonly kind: "assert"; readonly assertion: Assertion }
  | { readonly kind: "sequence"; readonly parts: readonly Node[] }
  | { readonly kind: "choice"; readonly options: readonly Node[] }
  | { readonly kind: "repeat"; readonly body: Node; readonly min: number; readonly max: number };

type Instruction =
  | { readonly op: "char"; readonly test: CharTest }
  | { readonly op: "assert"; readonly assertion: Assertion }
  | { readonly op: "split"; readonly first: number; second: number }
  | { readonly op: "jump"; to: number }
  | { readonly op: "match" };

/** A compiled pattern. */
export interface LinearRegExp {
  /** Whether the pattern occurs anywhere in `text`. */
  test(text: string): boolean;
}

/**
 * Compiles a pattern of Go's syntax: classes, groups, flags `imsU`, anchors, bounded repeats, Unicode classes,
 * `\Q...\E`. As in Go there are no back references and no look-around.
 *
 * @throws Error saying what is wrong with the pattern
 */
export function compileRegExp(pattern: string): LinearRegExp {
  if (pattern.length > MAX_PATTERN_LENGTH) throw new Error(`pattern longer than ${MAX_PATTERN_LENGTH} characters`);
  const program = assemble(new Parser(pattern).parse());
  return { test: (text) => run(program, text) };
}

interface Flags {
  readonly ignoreCase: boolean;
  readonly multiLine: boolean;
  readonly dotAll: boolean;
}

const isWordCode: CharTest = (code) =>
  (code >= 0x30 && code <= 0x39) || (code >= 0x41 && code <= 0x5a) || code === 0x5f || (code >= 0x61 && code <= 0x7a);
const isDigitCode: CharTest = (code) => code >= 0x30 && code <= 0x39;
const isSpaceCode: CharTest = (code) =>
  code === 0x20 || code === 0x09 || code === 0x0a || code === 0x0c || code === 0x0d;

const PERL_CLASSES: ReadonlyMap<string, CharTest> = new Map([
  ["d", isDigitCode],
  ["D", (code: number) => !isDigitCode(code)],
  ["w", isWordCode],
  ["W", (code: number) => !isWordCode(code)],
  ["s", isSpaceCode],
  ["S", (code: number) => !isSpaceCode(code)],
]);

const isAlphaCode: CharTest = (code) => (code >= 0x41 && code <= 0x5a) || (code >= 0x61 && code <= 0x7a);

const POSIX_CLASSES: ReadonlyMap<string, CharTest> = new Map<string, CharTest>([
  ["alnum", (code) => isAlphaCode(code) || isDigitCode(code)],
  ["alpha", isAlphaCode],
  ["ascii", (code) => code <= 0x7f],
  ["blank", (code) => code === 0x20 || code === 0x09],
  ["cntrl", (code) => code <= 0x1f || code === 0x7f],
  ["digit", isDigitCode],
  ["graph", (code) => code >= 0x21 && code <= 0x7e],
  ["lower", (code) => code >= 0x61 && code <= 0x7a],
  ["print", (code) => code >= 0x20 && code <= 0x7e],
  [
    "punct",
    (code) =>
      (code >= 0x21 && code <= 0x2f) ||
      (code >= 0x3a && code <= 0x40) ||
      (code >= 0x5b && code <= 0x60) ||
      (code >= 0x7b && code <= 0x7e),
  ],
  ["space", (code) => isSpaceCode(code) || code === 0x0b],
  ["upper", (code) => code >= 0x41 && code <= 0x5a],
  ["word", isWordCode],
  ["xdigit", (code) => isDigitCode(code) || (code >= 0x41 && code <= 0x46) || (code >= 0x61 && code <= 0x66)],
]);

const CONTROL_ESCAPES: ReadonlyMap<string, number> = new Map([
  ["a", 0x07],
  ["f", 0x0c],
  ["t", 0x09],
  ["n", 0x0a],
  ["r", 0x0d],
  ["v", 0x0b],
]);

class Parser {
  readonly #chars: readonly string[];
  #at = 0;
  #depth = 0;
  #flags: Flags = { ignoreCase: false, multiLine: false, dotAll: false };

  constructor(pattern: string) {
    this.#chars = Array.from(pattern);
  }

  parse(): Node {
    const node = this.#choice();
    if (this.#at < this.#chars.length) throw new Error("unexpected )");
    return node;
  }

  #peek(ahead = 0): string | undefined {
    return this.#chars[this.#at + ahead];
  }

  #take(): string {
    const char = this.#chars[this.#at];
    if (char === undefined) throw new Error("unexpected end of pattern");
    this.#at++;
    return char;
  }

  #eat(text: string): boolean {
    for (let i = 0; i < text.length; i++) if (this.#peek(i) !== text[i]) return false;
    this.#at += text.length;
    return true;
  }

  #choice(): Node {
    const options = [this.#sequence()];
    while (this.#eat("|")) options.push(this.#sequence());
    const [only] = options;
    return only !== undefined && options.length === 1 ? only : { kind: "choice", options };
  }

  #sequence(): Node {
    const parts: Node[] = [];
    for (;;) {
      const char = this.#peek();
      if (char === undefined || char === "|" || char === ")") break;
      if (this.#eat("\\Q")) {
        while (this.#peek() !== undefined && !this.#eat("\\E")) parts.push(this.#literal(codeOf(this.#take())));
        // A repeat after \E would apply to the last character; Go does so too.
        if (parts.length > 0 && isRepeatStart(this.#peek())) parts.push(this.#repeats(popped(parts)));
        continue;
      }
      const atom = this.#atom();
      if (atom !== undefined) parts.push(this.#repeats(atom));
    }
    return { kind: "sequence", parts };
  }

  #repeats(atom: Node): Node {
    let node = atom;
    let repeated = false;
    for (;;) {
      const range = this.#repeatRange();
      if (range === undefined) return node;
      if (repeated) throw new Error("invalid nested repetition operator");
      repeated = true;
      this.#eat("?");
      node = { kind: "repeat", body: node, min: range.min, max: range.max };
    }
  }

  #repeatRange(): { min: number; max: number } | undefined {
    if (this.#eat("*")) return { min: 0, max: Number.POSITIVE_INFINITY };
    if (this.#eat("+")) return { min: 1, max: Number.POSITIVE_INFINITY };
    if (this.#eat("?")) return { min: 0, max: 1 };
    if (this.#peek() !== "{") return undefined;
    const end = this.#chars.indexOf("}", this.#at);
    if (end < 0) return undefined;
    const parsed = /^(\d{1,5})(,(\d{0,5}))?$/.exec(this.#chars.slice(this.#at + 1, end).join(""));
    // What is no count is a literal brace, which the atom parser takes.
    if (parsed === null) return undefined;
    this.#at = end + 1;
    const min = Number(parsed[1]);
    const upper = parsed[3];
    const max =
      parsed[2] === undefined ? min : upper === undefined || upper === "" ? Number.POSITIVE_INFINITY : Number(upper);
    if (min > MAX_REPEAT || (max !== Number.POSITIVE_INFINITY && max > MAX_REPEAT) || max < min) {
      throw new Error("invalid repeat count");
    }
    return { min, max };
  }

  #atom(): Node | undefined {
    const char = this.#take();
    switch (char) {
      case "(":
        return this.#group();
      case "[":
        return { kind: "char", test: this.#class() };
      case ".": {
        const { dotAll } = this.#flags;
        return { kind: "char", test: (code) => dotAll || code !== 0x0a };
      }
      case "^":
        return { kind: "assert", assertion: this.#flags.multiLine ? "line-start" : "text-start" };
      case "$":
        return { kind: "assert", assertion: this.#flags.multiLine ? "line-end" : "text-end" };
      case "*":
      case "+":
      case "?":
        throw new Error("missing argument to repetition operator");
      case "\\":
        return this.#escape();
      default:
        return this.#literal(codeOf(char));
    }
  }

  #literal(code: number): Node {
    return { kind: "char", test: this.#folded((other) => other === code) };
  }

  #folded(test: CharTest): CharTest {
    if (!this.#flags.ignoreCase) return test;
    return (code) => {
      if (test(code)) return true;
      const text = String.fromCodePoint(code);
      return test(codeOf(text.toLowerCase())) || test(codeOf(text.toUpperCase()));
    };
  }

  #group(): Node | undefined {
    if (++this.#depth > MAX_DEPTH) throw new Error("expression nests too deeply");
    const outer = this.#flags;
    if (this.#eat("?")) {
      if (this.#eat("P<") || this.#eat("<")) {
        const start = this.#at;
        while (this.#peek() !== undefined && this.#peek() !== ">") this.#at++;
        if (!/^\w+$/.test(this.#chars.slice(start, this.#at).join("")) || !this.#eat(">")) {
          throw new Error("invalid named capture");
        }
      } else if (this.#flagGroup()) {
        // `(?i)` holds to the end of the enclosing group.
        this.#depth--;
        return undefined;
      }
    }
    const body = this.#choice();
    if (!this.#eat(")")) throw new Error("missing closing )");
    this.#flags = outer;
    this.#depth--;
    return body;
  }

  /** Reads the flags after `(?`. True if the group ended there, false after `:`. */
  #flagGroup(): boolean {
    let flags = this.#flags;
    let on = true;
    for (;;) {
      const char = this.#take();
      if (char === ":" || char === ")") {
        this.#flags = flags;
        return char === ")";
      }
      if (char === "-" && on) on = false;
      else if (char === "i") flags = { ...flags, ignoreCase: on };
      else if (char === "m") flags = { ...flags, multiLine: on };
      else if (char === "s") flags = { ...flags, dotAll: on };
      // Ungreedy changes which text matches, not whether one does.
      else if (char !== "U") throw new Error("invalid or unsupported Perl syntax");
    }
  }

  #escape(): Node {
    const char = this.#take();
    const perl = PERL_CLASSES.get(char);
    if (perl !== undefined) return { kind: "char", test: this.#folded(perl) };
    switch (char) {
      case "A":
        return { kind: "assert", assertion: "text-start" };
      case "z":
        return { kind: "assert", assertion: "text-end" };
      case "b":
        return { kind: "assert", assertion: "word" };
      case "B":
        return { kind: "assert", assertion: "not-word" };
      case "C":
        return { kind: "char", test: () => true };
      case "p":
      case "P":
        return { kind: "char", test: this.#folded(this.#unicodeClass(char === "P")) };
      default:
        return this.#literal(this.#escapedCode(char));
    }
  }

  /** The code point of an escape whose letter was taken. */
  #escapedCode(char: string): number {
    const control = CONTROL_ESCAPES.get(char);
    if (control !== undefined) return control;
    if (char === "x") {
      const braced = this.#eat("{");
      let digits = "";
      while (digits.length < (braced ? 6 : 2) && /^[0-9A-Fa-f]$/.test(this.#peek() ?? "")) digits += this.#take();
      const code = Number.parseInt(digits, 16);
      if (digits === "" || (braced ? !this.#eat("}") : digits.length < 2) || code > 0x10ffff) {
        throw new Error("invalid escape sequence");
      }
      return code;
    }
    if (/^[0-7]$/.test(char)) {
      let digits = char;
      while (digits.length < 3 && /^[0-7]$/.test(this.#peek() ?? "")) digits += this.#take();
      // A single digit from 1 would be a back reference, which Go does not have.
      if (char !== "0" && digits.length === 1) throw new Error("invalid escape sequence");
      return Number.parseInt(digits, 8);
    }
    if (codeOf(char) < 0x80 && !isWordCode(codeOf(char))) return codeOf(char);
    throw new Error("invalid escape sequence");
  }

  #unicodeClass(negated: boolean): CharTest {
    let name = this.#take();
    let flip = negated;
    if (name === "{") {
      name = "";
      for (let char = this.#take(); char !== "}"; char = this.#take()) name += char;
      if (name.startsWith("^")) {
        flip = !flip;
        name = name.slice(1);
      }
    }
    if (!/^[A-Za-z_]+$/.test(name)) throw new Error("invalid character class range");
    const known = name === "Any" ? /^[\s\S]$/u : (unicodeProperty(`gc=${name}`) ?? unicodeProperty(`sc=${name}`));
    if (known === undefined) throw new Error("invalid character class range");
    return (code) => known.test(String.fromCodePoint(code)) !== flip;
  }

  #class(): CharTest {
    const tests: CharTest[] = [];
    const negated = this.#eat("^");
    for (let first = true; first || this.#peek() !== "]"; first = false) {
      if (this.#eat("[:")) {
        const flip = this.#eat("^");
        let name = "";
        while (/^[a-z]$/.test(this.#peek() ?? "")) name += this.#take();
        const posix = POSIX_CLASSES.get(name);
        if (posix === undefined || !this.#eat(":]")) throw new Error("invalid character class range");
        tests.push((code) => posix(code) !== flip);
        continue;
      }
      const char = this.#take();
      if (char === "\\") {
        const letter = this.#take();
        const perl = PERL_CLASSES.get(letter);
        if (perl !== undefined) {
          tests.push(perl);
          continue;
        }
        if (letter === "p" || letter === "P") {
          tests.push(this.#unicodeClass(letter === "P"));
          continue;
        }
        tests.push(this.#range(this.#escapedCode(letter)));
        continue;
      }
      tests.push(this.#range(codeOf(char)));
    }
    this.#take();
    const test = this.#folded((code) => tests.some((each) => each(code)));
    return (code) => test(code) !== negated;
  }

  #range(low: number): CharTest {
    if (this.#peek() !== "-" || this.#peek(1) === "]" || this.#peek(1) === undefined) return (code) => code === low;
    this.#at++;
    const char = this.#take();
    const high = char === "\\" ? this.#escapedCode(this.#take()) : codeOf(char);
    if (high < low) throw new Error("invalid character class range");
    return (code) => code >= low && code <= high;
  }
}

function isRepeatStart(char: string | undefined): boolean {
  return char === "*" || char === "+" || char === "?" || char === "{";
}

function popped(parts: Node[]): Node {
  return parts.pop() ?? { kind: "empty" };
}

function codeOf(text: string): number {
  return text.codePointAt(0) ?? 0;
}

function unicodeProperty(property: string): RegExp | undefined {
  try {
    return new RegExp(`^\\p{${property}}$`, "u");
  } catch {
    return undefined;
  }
}

function assemble(node: Node): readonly Instruction[] {
  const program: Instruction[] = [];
  const put = <I extends Instruction>(instruction: I): I => {
    if (program.length >= MAX_PROGRAM) throw new Error("expression too large");
    program.push(instruction);
    return instruction;
  };
  const emit = (part: Node): void => {
    switch (part.kind) {
      case "empty":
        return;
      case "char":
        put({ op: "char", test: part.test });
        return;
      case "assert":
        put({ op: "assert", assertion: part.assertion });
        return;
      case "sequence":
        for (const each of part.parts) emit(each);
        return;
      case "choice": {
        const exits: { to: number }[] = [];
        part.options.forEach((option, index) => {
          if (index === part.options.length - 1) {
            emit(option);
            return;
          }
          const split = put({ op: "split", first: program.length + 1, second: 0 });
          emit(option);
          exits.push(put({ op: "jump", to: 0 }));
          split.second = program.length;
        });
        for (const exit of exits) exit.to = program.length;
        return;
      }
      case "repeat": {
        for (let i = 0; i < part.min; i++) emit(part.body);
        if (part.max === Number.POSITIVE_INFINITY) {
          const start = program.length;
          const split = put({ op: "split", first: start + 1, second: 0 });
          emit(part.body);
          put({ op: "jump", to: start });
          split.second = program.length;
          return;
        }
        const splits: { second: number }[] = [];
        for (let i = part.min; i < part.max; i++) {
          splits.push(put({ op: "split", first: program.length + 1, second: 0 }));
          emit(part.body);
        }
        for (const split of splits) split.second = program.length;
        return;
      }
      default:
        part satisfies never;
    }
  };
  emit(node);
  put({ op: "match" });
  return program;
}

/** Steps all threads of the program through the text at once: time is text length times program length. */
function run(program: readonly Instruction[], text: string): boolean {
  const codes: number[] = [];
  for (const char of text) codes.push(codeOf(char));
  let threads: number[] = [];
  let next: number[] = [];
  const seen = new Int32Array(program.length).fill(-1);
  const stack: number[] = [];

  for (let at = 0; at <= codes.length; at++) {
    // Adds what is reachable from `start` without taking a character; true when that includes a match.
    const follow = (start: number, list: number[]): boolean => {
      stack.push(start);
      for (let pc = stack.pop(); pc !== undefined; pc = stack.pop()) {
        if (seen[pc] === at) continue;
        seen[pc] = at;
        const instruction = program[pc];
        if (instruction === undefined) continue;
        if (instruction.op === "match") {
          stack.length = 0;
          return true;
        }
        if (instruction.op === "jump") stack.push(instruction.to);
        else if (instruction.op === "split") stack.push(instruction.first, instruction.second);
        else if (instruction.op === "char") list.push(pc);
        else if (holds(instruction.assertion, codes, at)) stack.push(pc + 1);
      }
      return false;
    };
    for (const pc of next) if (follow(pc, threads)) return true;
    if (follow(0, threads)) return true;
    next = [];
    const code = codes[at];
    if (code === undefined) return false;
    for (const pc of threads) {
      const instruction = program[pc];
      if (instruction?.op === "char" && instruction.test(code)) next.push(pc + 1);
    }
    threads = [];
  }
  return false;
}

function holds(assertion: Assertion, codes: readonly number[], at: number): boolean {
  const before = codes[at - 1];
  const after = codes[at];
  switch (assertion) {
    case "text-start":
      return at === 0;
    case "text-end":
      return at === codes.length;
    case "line-start":
      return before === undefined || before === 0x0a;
    case "line-end":
      return after === undefined || after === 0x0a;
    case "word":
    case "not-word": {
      const edge = (before !== undefined && isWordCode(before)) !== (after !== undefined && isWordCode(after));
      return edge === (assertion === "word");
    }
    default:
      return assertion satisfies never;
  }
}
