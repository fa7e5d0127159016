export * from "@stevedore/images/tree";
