export * from "@stevedore/core/with-lease";
