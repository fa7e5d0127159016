export * from "@stevedore/images/export";
