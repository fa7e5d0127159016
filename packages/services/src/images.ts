import { classified } from "@stevedore/base";
import { imageToProto, newImageFromProto } from "@stevedore/convert/images";
import { optionalDateFromProto } from "@stevedore/convert/timestamps";
import type { EventExchange, ImageStore, NewImage } from "@stevedore/core";
import {
  ImageCreateSchema,
  ImageDeleteSchema,
  ImageUpdateSchema,
} from "@stevedore/wire/gen/containerd/events/image_pb";
import type { Image, Images } from "@stevedore/wire/gen/containerd/services/images/v1/images_pb";
import type { ServiceImpl } from "@stevedore/wire/rpc/index";
import { announcing, pathsOf, requestContext, required } from "./request.ts";

function named(image: Image | undefined): NewImage {
  const wanted = newImageFromProto(required(image, "image"));
  if (wanted.name === "") throw classified("invalid-argument", "Image.Name required: invalid argument");
  return wanted;
}

/** The images service. */
export function imagesService(of: {
  readonly images: ImageStore;
  readonly events: EventExchange;
}): ServiceImpl<typeof Images> {
  const { images, events } = of;
  return {
    get: async ({ name }, call) => ({ image: imageToProto(await images.get(requestContext(call), name)) }),
    list: async ({ filters }, call) => ({
      images: (await images.list(requestContext(call), filters)).map(imageToProto),
    }),
    create: async ({ image, sourceDateEpoch }, call) => {
      const wanted = named(image);
      const epoch = optionalDateFromProto(sourceDateEpoch);
      const created = await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/images/create",
          schema: ImageCreateSchema,
          known: { name: wanted.name },
          fields: { [ImageCreateSchema.field.labels.number]: "labels" },
        },
        (context) => images.create(context, epoch === undefined ? wanted : { ...wanted, createdAt: epoch }),
        ({ name, labels }) => ({ name, labels: { ...labels } }),
      );
      return { image: imageToProto(created) };
    },
    update: async ({ image, updateMask }, call) => {
      const wanted = named(image);
      const updated = await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/images/update",
          schema: ImageUpdateSchema,
          known: { name: wanted.name },
          fields: { [ImageUpdateSchema.field.labels.number]: "labels" },
        },
        (context) => images.update(context, wanted, pathsOf(updateMask)),
        ({ name, labels }) => ({ name, labels: { ...labels } }),
      );
      return { image: imageToProto(updated) };
    },
    delete: async ({ name, sync, target }, call) => {
      const options = { sync, ...(target === undefined || target.digest === "" ? {} : { target: target.digest }) };
      await announcing(
        {
          events,
          context: requestContext(call),
          topic: "/images/delete",
          schema: ImageDeleteSchema,
          known: { name },
        },
        (context) => images.delete(context, name, options),
      );
      return {};
    },
  };
}
