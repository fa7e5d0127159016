/** Labels of a snapshot that tell whom its files belong to outside, as `container:host:size[,...]`; containerd's core/snapshots. */
export const UID_MAPPING_LABEL = "containerd.io/snapshot/uidmapping";
export const GID_MAPPING_LABEL = "containerd.io/snapshot/gidmapping";
