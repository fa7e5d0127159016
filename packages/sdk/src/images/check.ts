export * from "@stevedore/images/check";
