export * from "@stevedore/images/import";
