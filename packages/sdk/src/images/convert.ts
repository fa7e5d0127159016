export * from "@stevedore/images/convert";
