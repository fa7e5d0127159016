/** A client of image registries: resolve, fetch, push, lists, referrers. Usable by itself, on Bun and on Node 22. */
export {
  type Credential,
  type CredentialQuery,
  type CredentialSource,
  credentialFor,
  firstOf,
} from "./auth/credentials.ts";
export {
  credentialOfAuth,
  type DockerAuth,
  type DockerConfig,
  type DockerConfigSourceOptions,
  dockerConfigSource,
  parseDockerConfig,
} from "./auth/docker-config.ts";
export type { HelperOutcome, HelperRunner } from "./auth/helper.ts";
export {
  type CallOptions,
  createRegistryClient,
  type RegistryClient,
  type RegistryClientOptions,
  type RegistryClientVariant,
} from "./client.ts";
export type { ExplainedAuth, ExplainedHost, ExplainedSetting, Explanation, LiveCheck } from "./explain.ts";
export { describeFailure, type HostFailure, RegistryError, type RegistryErrorCode } from "./failure.ts";
export type { Fetched, FetchedByDigest, FetchOptions } from "./fetch.ts";
export { type CriRegistry, type CriRegistryConfig, criRegistry } from "./hosts/cri-config.ts";
export { type DefaultHostOptions, defaultHost, defaultHosts } from "./hosts/defaults.ts";
export { checkHostsDir, type HostsDirOptions, hostsDir } from "./hosts/hosts-dir.ts";
export { type HostEntry, type HostsFile, parseHostsToml } from "./hosts/hosts-toml.ts";
export { CAPABILITIES, type Capability, endpointOf, type HostsSource, type RegistryHost } from "./hosts/types.ts";
export { formatHttpEvent, type HttpEvent, type HttpObserver } from "./http/observe.ts";
export type { Environment } from "./http/proxy.ts";
export type { ClientCertificate, ShownCertificate, TlsSettings } from "./http/tls.ts";
export { type ImageName, imageName } from "./image-name.ts";
export { DEFAULT_LIMITS, type RegistryLimits } from "./limits.ts";
export { mountCandidates, type OpenContent, type Pushed, type PushOptions } from "./push.ts";
export type { FetchedRanges, PositionedChunk, RangesOptions } from "./ranges.ts";
export { redactText, redactUrl } from "./redact.ts";
export type { ReferrersOptions } from "./referrers.ts";
export type { Resolved } from "./resolve.ts";
