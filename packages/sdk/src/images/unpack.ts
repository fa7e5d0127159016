export * from "@stevedore/images/unpack";
