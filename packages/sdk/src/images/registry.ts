/** Registries for a client that does itself what a daemon's transfer service would do. */
export * from "@stevedore/images/transfer/registry-session";
export * from "@stevedore/images/transfer/transferrer";
