import type { RequestContext } from "@stevedore/base";
import { imageFromProto, imageToProto } from "@stevedore/convert/images";
import type { FieldMask, Image, ImageStore, NewImage } from "@stevedore/core";
import type { Transport } from "@stevedore/wire/rpc/index";
import { callOptions, lazyClient, present } from "./call.ts";

/** The image store of a daemon. */
export function imagesProxy(transport: Transport): ImageStore {
  const images = lazyClient(
    transport,
    async () => (await import("@stevedore/wire/gen/light/containerd/services/images/v1/images_pb")).Images,
  );
  return {
    get: async (context: RequestContext, name: string): Promise<Image> => {
      const { image } = await (await images()).get({ name }, callOptions(context));
      return imageFromProto(present(image, "image"));
    },
    list: async (context: RequestContext, filters: readonly string[]): Promise<readonly Image[]> => {
      const answer = await (await images()).list({ filters: [...filters] }, callOptions(context));
      return answer.images.map(imageFromProto);
    },
    create: async (context: RequestContext, image: NewImage): Promise<Image> => {
      const answer = await (await images()).create({ image: imageToProto(image) }, callOptions(context));
      return imageFromProto(present(answer.image, "image"));
    },
    update: async (context: RequestContext, image: NewImage, fields: FieldMask): Promise<Image> => {
      const answer = await (await images()).update(
        { image: imageToProto(image), ...(fields.length === 0 ? {} : { updateMask: { paths: [...fields] } }) },
        callOptions(context),
      );
      return imageFromProto(present(answer.image, "image"));
    },
    delete: async (context, name, options = {}) => {
      await (await images()).delete(
        {
          name,
          sync: options.sync ?? false,
          ...(options.target === undefined ? {} : { target: { digest: options.target } }),
        },
        callOptions(context),
      );
    },
  };
}
