export * from "@stevedore/images/children-labels";
