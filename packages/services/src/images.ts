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

/** An image store whose changes are told as events. */
export function announcedImages(of: { readonly images: ImageStore; readonly events: EventExchange }): ImageStore {
  const { images, events } = of;
  return {
    get: async (context, name) => images.get(context, name),
    list: async (context, filters) => images.list(context, filters),
    create: async (context, image) =>
      announcing(
        {
          events,
          context,
          topic: "/images/create",
          schema: ImageCreateSchema,
          known: { name: image.name },
          fields: { [ImageCreateSchema.field.labels.number]: "labels" },
        },
        (announced) => images.create(announced, image),
        ({ name, labels }) => ({ name, labels: { ...labels } }),
      ),
    update: async (context, image, fields) =>
      announcing(
        {
          events,
          context,
          topic: "/images/update",
          schema: ImageUpdateSchema,
          known: { name: image.name },
          fields: { [ImageUpdateSchema.field.labels.number]: "labels" },
        },
        (announced) => images.update(announced, image, fields),
        ({ name, labels }) => ({ name, labels: { ...labels } }),
      ),
    delete: async (context, name, options) => {
      await announcing(
        { events, context, topic: "/images/delete", schema: ImageDeleteSchema, known: { name } },
        (announced) => images.delete(announced, name, options),
      );
    },
  };
}

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
  const images = announcedImages(of);
  return {
    get: async ({ name }, call) => ({ image: imageToProto(await images.get(requestContext(call), name)) }),
    list: async ({ filters }, call) => ({
      images: (await images.list(requestContext(call), filters)).map(imageToProto),
    }),
    create: async ({ image, sourceDateEpoch }, call) => {
      const wanted = named(image);
      const epoch = optionalDateFromProto(sourceDateEpoch);
      const dated = epoch === undefined ? wanted : { ...wanted, createdAt: epoch };
      return { image: imageToProto(await images.create(requestContext(call), dated)) };
    },
    update: async ({ image, updateMask }, call) => ({
      image: imageToProto(await images.update(requestContext(call), named(image), pathsOf(updateMask))),
    }),
    delete: async ({ name, sync, target }, call) => {
      const options = { sync, ...(target === undefined || target.digest === "" ? {} : { target: target.digest }) };
      await images.delete(requestContext(call), name, options);
      return {};
    },
  };
}
