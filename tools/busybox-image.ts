// Writes a test image made from Debian's busybox-static: bun tools/busybox-image.ts FILE.tar [NAME]
import { writeFile } from "node:fs/promises";
import { IMAGE, ociArchive } from "../tests/harness/images.ts";

const [file, name = IMAGE] = process.argv.slice(2);
if (file === undefined) {
  process.stderr.write("usage: bun tools/busybox-image.ts FILE.tar [NAME]\n");
  process.exitCode = 2;
} else {
  await writeFile(file, await ociArchive({ name }));
}
