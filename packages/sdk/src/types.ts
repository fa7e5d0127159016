/** The plain types of containerd's objects, for users of the client. */
export type * from "@stevedore/core";
