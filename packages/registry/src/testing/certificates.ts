/** Certificates for tests, made by the machine's openssl in a folder that is removed. */
import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A certificate with its key, as PEM. */
export interface TestCertificate {
  readonly cert: string;
  readonly key: string;
}

/** An authority, a server for localhost and 127.0.0.1, and a client, both signed by it. */
export interface TestCertificates {
  readonly ca: string;
  readonly server: TestCertificate;
  readonly client: TestCertificate;
}

/** Makes them; some 100 ms. @throws what openssl said */
export async function makeCertificates(names = "DNS:localhost,IP:127.0.0.1"): Promise<TestCertificates> {
  const folder = await mkdtemp(join(tmpdir(), "registry-pki-"));
  try {
    const openssl = async (...args: readonly string[]): Promise<void> => run("openssl", args, folder);
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    await openssl(
      "req",
      "-x509",
      ...key,
      "-keyout",
      "ca.key",
      "-out",
      "ca.crt",
      "-subj",
      "/CN=test authority",
      "-days",
      "2",
    );
    for (const [name, extension] of [
      ["server", `subjectAltName=${names}`],
      ["client", "extendedKeyUsage=clientAuth"],
    ] as const) {
      await writeFile(join(folder, `${name}.ext`), extension);
      await openssl("req", ...key, "-keyout", `${name}.key`, "-out", `${name}.csr`, "-subj", `/CN=test ${name}`);
      const signed = ["-in", `${name}.csr`, "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
      await openssl("x509", "-req", ...signed, "-extfile", `${name}.ext`, "-out", `${name}.crt`);
    }
    const pem = async (name: string): Promise<string> => readFile(join(folder, name), "utf8");
    const pair = async (name: string): Promise<TestCertificate> => ({
      cert: await pem(`${name}.crt`),
      key: await pem(`${name}.key`),
    });
    return { ca: await pem("ca.crt"), server: await pair("server"), client: await pair("client") };
  } finally {
    await rm(folder, { recursive: true });
  }
}

async function run(program: string, args: readonly string[], cwd: string): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    execFile(program, [...args], { cwd, timeout: 30_000 }, (error, _, stderr) => {
      if (error === null) resolve();
      else reject(new Error(`${program} ${args[0] ?? ""}: ${stderr}`, { cause: error }));
    });
  });
}
