// Debian's docker-registry (unpacked under build/registry) on a port and a folder of its own, with accounts, tokens or TLS.
import { createPrivateKey, randomUUID, sign } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import {
  makeCertificates,
  type TestCertificate,
  type TestCertificates,
} from "@stevedore/registry/testing/certificates";
import { repository } from "./daemon.ts";
import { freePort } from "./ports.ts";
import { eventually, type Running, start } from "./process.ts";

const PROGRAM = join(repository, "build/registry/usr/bin/docker-registry");
const SERVICE = "docker-registry.test";
const ISSUER = "token-server.test";

export type DockerRegistryOptions = {
  /** Where it keeps everything; the caller's to remove. */
  readonly folder: string;
  readonly tls?: TestCertificate;
  /** Accounts for basic auth. */
  readonly users?: Readonly<Record<string, string>>;
  /** The token server it believes. */
  readonly tokens?: TokenServer;
  readonly port?: number;
};

export type DockerRegistry = AsyncDisposable & {
  /** `127.0.0.1:port`. */
  readonly host: string;
  readonly url: string;
  /** Ends the process at once and starts it again on the same port and folder. */
  readonly restart: (whileDown?: () => Promise<void>) => Promise<void>;
};

/** Starts one and waits until it answers. */
export async function startDockerRegistry(options: DockerRegistryOptions): Promise<DockerRegistry> {
  const { folder, tls, users, tokens } = options;
  const port = options.port ?? freePort();
  await mkdir(join(folder, "data"), { recursive: true });
  const lines = ["version: 0.1", "log: { level: warn }", "storage:", "  delete: { enabled: true }"];
  lines.push(`  filesystem: { rootdirectory: ${join(folder, "data")} }`, "http:", `  addr: 127.0.0.1:${port}`);
  if (tls !== undefined) {
    await writeFile(join(folder, "server.crt"), tls.cert);
    await writeFile(join(folder, "server.key"), tls.key);
    lines.push("  tls:", `    certificate: ${join(folder, "server.crt")}`, `    key: ${join(folder, "server.key")}`);
  }
  if (users !== undefined) {
    const accounts = Object.entries(users).map(([name, password]) => {
      return `${name}:${Bun.password.hashSync(password, { algorithm: "bcrypt", cost: 4 })}\n`;
    });
    await writeFile(join(folder, "htpasswd"), accounts.join(""));
    lines.push("auth:", `  htpasswd: { realm: basic-realm, path: ${join(folder, "htpasswd")} }`);
  }
  if (tokens !== undefined) {
    await writeFile(join(folder, "roots.pem"), tokens.roots);
    const trust = `issuer: ${ISSUER}, rootcertbundle: ${join(folder, "roots.pem")}`;
    lines.push("auth:", `  token: { realm: "${tokens.realm}", service: ${SERVICE}, ${trust} }`);
  }
  const config = join(folder, "config.yml");
  await writeFile(config, `${lines.join("\n")}\n`);
  const url = `${tls === undefined ? "http" : "https"}://127.0.0.1:${port}`;
  let child = await run(config, url);
  return {
    host: `127.0.0.1:${port}`,
    url,
    restart: async (whileDown) => {
      await child.stop("SIGKILL");
      await whileDown?.();
      child = await run(config, url);
    },
    [Symbol.asyncDispose]: async () => {
      await child.stop("SIGKILL");
    },
  };
}

async function run(config: string, url: string): Promise<Running> {
  const child = start([PROGRAM, "serve", config]);
  await eventually(`docker-registry answers at ${url}\n${child.stderr()}`, async () => {
    const answer = await fetch(`${url}/v2/`, { tls: { rejectUnauthorized: false } }).catch(() => undefined);
    return answer?.status === 200 || answer?.status === 401 ? answer.status : undefined;
  });
  return child;
}

/** A token server as registries use them: it knows accounts and signs what they may do. */
export type TokenServer = AsyncDisposable & {
  readonly realm: string;
  /** PEM of what its signatures are verified by. */
  readonly roots: string;
  /** Scopes that were asked for, in order. */
  readonly asked: string[];
};

/** Starts one. Who gives no password may pull `public/…`; who has an account may do everything. */
export async function startTokenServer(users: Readonly<Record<string, string>>): Promise<TokenServer> {
  const signing: TestCertificates = await makeCertificates();
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const parts: Buffer[] = [];
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => {
      const form = new URLSearchParams(Buffer.concat(parts).toString());
      const query = new URL(request.url ?? "/", "http://token.invalid").searchParams;
      const user = form.get("username") ?? "";
      const known = user !== "" && users[user] === form.get("password");
      if (user !== "" && !known) {
        response.writeHead(401).end('{"errors":[{"code":"UNAUTHORIZED","message":"wrong password"}]}');
        return;
      }
      const scopes = request.method === "POST" ? (form.get("scope") ?? "").split(" ") : query.getAll("scope");
      asked.push(...scopes);
      const token = signToken(
        signing.server,
        scopes.flatMap((scope) => granted(scope, known)),
      );
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify({ [request.method === "POST" ? "access_token" : "token"]: token, expires_in: 300 }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return {
    realm: `http://127.0.0.1:${port}/token`,
    roots: signing.ca,
    asked,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}

type Access = { readonly type: string; readonly name: string; readonly actions: readonly string[] };

function granted(scope: string, known: boolean): readonly Access[] {
  const [, type = "", name = "", actions = ""] = /^([a-z]+):(.+):([a-z,*]+)$/.exec(scope) ?? [];
  const all = actions.split(",").filter((action) => known || (action === "pull" && name.startsWith("public/")));
  return all.length === 0 ? [] : [{ type, name, actions: all }];
}

function signToken(by: TestCertificate, access: readonly Access[]): string {
  const now = Math.floor(Date.now() / 1000);
  const der = by.cert.replace(/-----[^-]+-----|\s/g, "");
  const header = { typ: "JWT", alg: "ES256", x5c: [der] };
  const claims = {
    iss: ISSUER,
    sub: "",
    aud: SERVICE,
    exp: now + 300,
    nbf: now - 60,
    iat: now,
    jti: randomUUID(),
    access,
  };
  const text = [header, claims].map((part) => Buffer.from(JSON.stringify(part)).toString("base64url")).join(".");
  const key = { key: createPrivateKey(by.key), dsaEncoding: "ieee-p1363" } as const;
  return `${text}.${sign("sha256", Buffer.from(text), key).toString("base64url")}`;
}
