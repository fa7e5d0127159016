import { classified } from "@stevedore/base";
import type { SpecMount } from "@stevedore/oci/runtime-spec";

/**
 * Reads a `--mount` value: `type=bind,src=/tmp,dst=/host,options=rbind:ro`. Commas inside double quotes belong to the
 * value, as in a CSV record.
 * @throws invalid-argument
 */
export function parseMountFlag(text: string): SpecMount {
  const mount: SpecMount = { destination: "" };
  for (const field of splitRecord(text)) {
    const equals = field.indexOf("=");
    if (equals < 0) {
      throw classified(
        "invalid-argument",
        `invalid mount specification: expected key=val, found ${JSON.stringify(field)}`,
      );
    }
    const key = field.slice(0, equals);
    const value = field.slice(equals + 1);
    switch (key) {
      case "type":
        mount.type = value;
        break;
      case "source":
      case "src":
        mount.source = value;
        break;
      case "destination":
      case "dst":
        mount.destination = value;
        break;
      case "options":
        mount.options = value.split(":");
        break;
      default:
        throw classified("invalid-argument", `mount option ${JSON.stringify(key)} not supported`);
    }
  }
  return mount;
}

function splitRecord(text: string): string[] {
  const fields: string[] = [];
  let field = "";
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const char = text.charAt(at);
    if (char === '"') {
      if (quoted && text.charAt(at + 1) === '"') {
        field += '"';
        at++;
      } else {
        quoted = !quoted;
      }
    } else if (char === "," && !quoted) {
      fields.push(field);
      field = "";
    } else {
      field += char;
    }
  }
  fields.push(field);
  return fields;
}
