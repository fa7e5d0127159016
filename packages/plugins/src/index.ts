// What every plugin folder may share: the types and ids of plugins. Implementations are reached by their own doors.
export * from "./ids.ts";
