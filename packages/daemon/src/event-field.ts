import type { Envelope } from "@stevedore/core";
import type { FieldOf } from "@stevedore/core/filters";
import { eventFieldValue } from "@stevedore/wire/event-fields";

/** A field of an event's message by its name in the proto file (`container_id`). */
export const eventField: FieldOf<Envelope> = ({ event }, path) => eventFieldValue(event, path);
